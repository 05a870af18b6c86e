"""The examples run, and do what they say."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import secateur as sc

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_article_cnn(capsys):
    model = example("article_cnn").main(epochs=3)
    out = capsys.readouterr().out
    accuracy = float(out.split("test accuracy ")[1].split()[0])
    assert accuracy > 0.9
    left = model.num_parameters(nonzero=True)
    assert left < model.num_parameters()
    assert f"{left:,} parameters left" in out
    # What was removed after the first epoch stayed removed.
    for name, mask in model.masks.items():
        assert not np.any(model.parameters()[name][~mask])
    assert "conv2d_1" in out


@pytest.mark.parametrize("method", ["static", "gradual", "sdp", "gdp", "set", "rigl", "dns", "acdc", "snip"])
def test_lenet(method, tmp_path, capsys):
    saved = str(tmp_path / "m.safetensors")
    point = [
        "--method",
        method,
        "--sparsity",
        "0.8",
        "--epochs",
        "16",
        "--random-state",
        "0",
        "--save",
        saved,
    ]
    assert example("lenet").main([*point, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"] == 1 - result["error"] > 0.9
    assert result["weights"] == 266_200
    masks = sc.load(saved).masks
    assert sum(int(mask.sum()) for mask in masks.values()) == 53_240
    if method == "set":
        # Of the 0.3 that the last exchange grew some stays 0: where images are black, or a unit never fires.
        assert 53_240 - round(0.3 * 53_240) <= result["kept"] <= 53_240
    else:
        assert result["kept"] == 53_240
    assert result["method"] == method and set(result["density"]) == {
        "dense.weight",
        "dense_1.weight",
        "dense_2.weight",
    }


def test_lenet_5_and_what_it_refuses(tmp_path, capsys):
    lenet = example("lenet")
    assert lenet.main(["--net", "5", "--epochs", "1", "--save", str(tmp_path / "m.safetensors")]) == 0
    assert "of 430,500 weights (10.00%)" in capsys.readouterr().out
    assert (tmp_path / "m.safetensors").exists()
    assert lenet.main(["--data", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lenet.py: ") and error.count("\n") == 1
    for wrong in (["--epochs", "0"], ["--sparsity", "2"], ["--method", "x"]):
        with pytest.raises(SystemExit) as exit_:
            lenet.main(wrong)
        assert exit_.value.code == 2
