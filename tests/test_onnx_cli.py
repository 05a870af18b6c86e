"""ONNX models on the command line."""

import json

import numpy as np
import onnx_ir as ir
import pytest

import secateur as sc
from secateur import nn
from secateur.cli import main
from secateur.onnx import session as onnx_session
from secateur.onnx.inspection import inspect_model, rows_worth_showing


def call(capsys, *arguments):
    """Run the command line: its exit code and what it printed."""
    with pytest.raises(SystemExit) as exit:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return exit.value.code, out, err


@pytest.fixture
def file(tmp_path):
    layers = [
        nn.Conv2D(8, 3, activation="relu"),
        nn.MaxPool2D(),
        nn.Flatten(),
        nn.Dense(64, "relu"),
        nn.Dense(4),
    ]
    path = tmp_path / "m.onnx"
    sc.export_onnx(nn.Sequential(layers).build((1, 12, 12), 0), path)
    return path


@pytest.mark.parametrize("granularity", ["weight", "8x1", "2:4", "neuron"])
def test_prune(capsys, file, tmp_path, granularity):
    out = tmp_path / "pruned.onnx"
    code, printed, _ = call(
        capsys, "prune", file, "-o", out, "--sparsity", 0.5, "--granularity", granularity, "--json"
    )
    rows = json.loads(printed)["rows"]
    assert code == 0 and [row["name"] for row in rows] == [str(file), str(out)]
    assert rows[1]["kept"] == pytest.approx(rows[0]["kept"] / 2, rel=0.1)
    assert rows[1]["us_32"] > 0 and rows[1]["bytes"] == out.stat().st_size
    if granularity == "neuron":
        assert out.stat().st_size < 0.7 * file.stat().st_size
    else:
        assert set(sc.load(out).masks) == {"conv2d.weight", "dense.weight", "dense_1.weight"}


@pytest.mark.parametrize("criterion", ["wanda", "obs"])
def test_prune_on_data(capsys, file, tmp_path, criterion):
    out, data = tmp_path / "pruned.onnx", tmp_path / "data.npz"
    x = np.random.default_rng(0).normal(size=(100, 1, 12, 12)).astype(np.float32)
    options = ["--sparsity", 0.7, "--criterion", criterion, "--data", data, "--json"]
    np.savez(data, x=x, y=np.zeros(100))
    assert call(capsys, "prune", file, "-o", out, *options)[0] == 0
    wanted = sc.prune(file, 0.7, criterion=criterion, data=x, progress=False).masks
    assert all(np.array_equal(mask, wanted[name]) for name, mask in sc.load(out).masks.items())
    for arrays, message in (
        ({"other": x}, "has no array 'input'"),
        ({"input": x[:, :, :5]}, "data: expected"),
    ):
        np.savez(data, **arrays)
        code, printed, error = call(capsys, "prune", file, "-o", tmp_path / "no.onnx", *options)
        assert (code, printed, error.count("\n")) == (2, "", 1) and message in error
    data.write_bytes(b"no archive")
    code, _, error = call(capsys, "prune", file, "-o", tmp_path / "no.onnx", *options)
    assert code == 1 and "no .npz file" in error and not (tmp_path / "no.onnx").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--criterion", "obs"], "data: criterion 'obs' needs samples"),
        (["--data", "some.npz"], "cannot be trained here"),
        (["--epochs", 3, "--data", "digits"], "cannot be trained here"),
        (["--criterion", "taylor"], "cannot be trained here"),
        (["--include", "nothing"], "matches none of"),
        (["--scope", "nothing"], "scope"),
    ],
)
def test_prune_refuses(capsys, file, tmp_path, options, message):
    out = tmp_path / "pruned.onnx"
    code, printed, error = call(capsys, "prune", file, "-o", out, "--sparsity", 0.5, *options)
    assert (code, printed, error.count("\n")) == (2, "", 1) and message in error
    assert list(tmp_path.iterdir()) == [file]


def test_damaged_files_and_wrong_suffixes(capsys, file, tmp_path):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    for command in (["inspect", file], ["prune", file, "-o", tmp_path / "p.onnx", "--sparsity", 0.5]):
        code, printed, error = call(capsys, *command)
        assert (code, printed, error.count("\n")) == (1, "", 1) and str(file) in error
    code, _, error = call(capsys, "prune", file, "-o", tmp_path / "p.safetensors", "--sparsity", 0.5)
    assert code == 2 and "choose from .onnx" in error
    code, _, error = call(capsys, "inspect", tmp_path / "gone.onnx")
    assert code == 1 and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


def test_inspect(capsys, file):
    code, printed, _ = call(capsys, "inspect", file, "--json")
    about = json.loads(printed)
    assert code == 0 and about["kind"] == "onnx" and about["us"] > 0
    model = nn.Sequential(
        [nn.Conv2D(8, 3, activation="relu"), nn.MaxPool2D(), nn.Flatten(), nn.Dense(64, "relu"), nn.Dense(4)]
    ).build((1, 12, 12))
    assert about["parameters"] == model.num_parameters() and about["macs"] == model.macs()
    conv = about["layers"][0]
    assert (conv["name"], conv["op"], conv["output_shape"]) == ("conv2d", "Conv", ["N", 8, 10, 10])
    assert conv["density"] == 1.0 and 0 < conv["share"] < 1
    assert sum(layer["share"] for layer in about["layers"]) == pytest.approx(1, abs=0.02)
    assert any(layer["hint"].startswith("prune: ") for layer in about["layers"])
    code, printed, _ = call(capsys, "inspect", file)
    assert code == 0 and "dense_1" in printed and "prune: " in printed
    code, printed, _ = call(capsys, "inspect", file, "--shape", "input=3,1,12,12", "--json")
    assert code == 0 and json.loads(printed)["layers"][0]["output_shape"] == [3, 8, 10, 10]
    code, _, error = call(capsys, "inspect", file, "--shape", "input=N,1,9,9")
    assert code == 2 and error.count("\n") == 1 and "shapes: 'input' has the shape" in error
    code, _, error = call(capsys, "inspect", file, "--shape", "input=-1,1,12,12")
    assert code == 2 and "shape: expected numbers and names in 'input=-1,1,12,12', got '-1'" in error


def test_inspection_of_pruned_models(file):
    pruned = sc.prune(file, 0.9, scope="layer").model
    about = inspect_model(pruned)
    assert about["kept"] < about["parameters"] and about["nonzero_macs"] < about["macs"]
    hints = [row["hint"] for row in about["layers"] if row["hint"]]
    assert hints and all(hint.startswith("run sparse: ") for hint in hints)
    shown = rows_worth_showing(about["layers"])
    assert sum(row["parameters"] for row in shown) == about["parameters"]


def test_inspection_without_onnxruntime(file, monkeypatch):
    def missing(extra):
        raise sc.MissingExtraError('install "secateur[onnx]"')

    monkeypatch.setattr("secateur.onnx.inspection.onnxruntime", missing)
    about = inspect_model(sc.load(file))
    assert about["us"] is None and "secateur[onnx]" in about["not_timed"]
    assert all(row["share"] is None for row in rows_worth_showing(about["layers"]))


def test_noise_is_what_models_take(tmp_path):
    tagger = nn.Sequential([nn.Embedding(7, 4, mask_zero=True), nn.LSTM(3)]).build((5,), 0)
    sc.export_onnx(tagger, tmp_path / "m.onnx")
    model = sc.load(tmp_path / "m.onnx")
    ids = onnx_session.noise(model, 9)
    assert ids.shape == (9, 5) and ids.dtype == np.int64 and ids.min() >= 0 and ids.max() < 7
    (found,) = onnx_session.runner(model)(ids)
    np.testing.assert_allclose(found, tagger.predict(ids.astype(np.float32)), rtol=1e-5, atol=1e-6)


def test_models_of_one_batch_size_run_as_often_as_needed(file):
    model = sc.load(file)
    x = onnx_session.noise(model, 7)
    (expected,) = onnx_session.runner(model)(x)
    fixed = model.copy()
    for value in (*fixed.ir.graph.inputs, *fixed.ir.graph.outputs):
        value.shape = type(value.shape)([3, *list(value.shape)[1:]])
    for node in fixed.ir.graph:
        for value in node.outputs:
            value.shape = None if value not in fixed.ir.graph.outputs else value.shape
    (found,) = onnx_session.runner(fixed)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="x: "):
        onnx_session.runner(model)({"a": x, "b": x})


def test_sequences_may_come_steps_first(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[7, N, 3] x, float s) => (float[7, N, 3] y)
    { y = Mul(x, s) }"""
    model = sc.OnnxModel(ir.from_onnx_text(text))
    given = onnx_session.noise(model, 4)
    assert given["x"].shape == (7, 4, 3) and given["s"].shape == ()
    (found,) = onnx_session.runner(model)(given)
    np.testing.assert_allclose(found, given["x"] * given["s"])


def test_plans_of_onnx_models_are_inspected_and_timed(capsys, file, tmp_path):
    out = tmp_path / "plan.safetensors"
    assert call(capsys, "compile", file, "-o", out, "--batch", 2)[0] == 0
    code, printed, _ = call(capsys, "inspect", out, "--json")
    about = json.loads(printed)
    assert code == 0 and about["kind"] == "plan" and about["batch"] == [2]
    assert about["inputs"][0]["name"] == "input" and about["choices"]
    code, printed, _ = call(capsys, "inspect", out)
    assert code == 0 and "chain" in printed and "kernel" in printed
    options = ["--batch", 2, "--rounds", 1, "--json"]
    code, printed, _ = call(capsys, "bench", out, file, *options)
    assert code == 0 and [row["file"] for row in json.loads(printed)["rows"]] == [str(out), str(file)]


def test_a_model_is_not_written_over_itself(capsys, file):
    before = file.read_bytes()
    for command in (["prune", file, "-o", file, "--sparsity", 0.5], ["compile", file, "-o", file]):
        code, _, err = call(capsys, *command)
        assert code == 2 and "the model's own file" in err and file.read_bytes() == before
