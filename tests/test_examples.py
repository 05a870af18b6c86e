"""The examples run, and do what they say."""

import importlib.util
from pathlib import Path

import numpy as np

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
