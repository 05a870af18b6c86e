"""What files say of how their models were pruned."""

import json
from importlib.metadata import version

import numpy as np
import pytest

import secateur as sc
from secateur import nn, provenance
from secateur.cli import main
from secateur.reporting import Column, print_table


@pytest.fixture
def model():
    return nn.Sequential([nn.Dense(16, activation="relu"), nn.Dense(3)]).build((8,), 0)


def train(model, *callbacks):
    x = np.random.default_rng(0).normal(size=(64, 8))
    return model.fit(
        x,
        np.arange(64) % 3,
        epochs=4,
        batch_size=16,
        callbacks=list(callbacks),
        random_state=0,
        progress=False,
    )


def test_each_pruning_is_a_step(model):
    first = sc.prune(model, 0.5, granularity="4x1", scope="layer", schedule="linear").model
    second = sc.prune(
        first, 0.25, criterion=lambda w, g: np.abs(w), granularity="neuron", round_to=None
    ).model
    assert model.provenance == [] and len(first.provenance) == 1
    one, two = second.provenance
    assert one == {
        "method": "prune",
        "criterion": "l1",
        "granularity": "4x1",
        "scope": "layer",
        "sparsity": one["sparsity"],
        "steps": 5,
        "finetuned": False,
        "bias_correction": False,
        "version": version("secateur"),
    }
    assert one["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert (two["criterion"], two["granularity"], two["steps"]) == ("<lambda>", "neuron", 1)
    assert sc.prune(second, granularity="2:4").model.provenance[-1]["granularity"] == "2:4"


def test_in_place(model):
    result = sc.prune(model, 0.5, inplace=True)
    assert result.model is model
    assert [step["sparsity"] for step in model.provenance] == [0.5]


def test_every_call_of_prune_is_a_step(model):
    for sparsity in (0.3, 0.6):
        sc.prune(model, sparsity, inplace=True)
    sc.prune(model, 0.9, include="dense", inplace=True)
    assert [step["sparsity"] for step in model.provenance] == pytest.approx([0.3, 0.6, 0.9], abs=0.01)
    assert [step.get("tensors") for step in model.provenance] == [None, None, ["dense.weight"]]


def test_the_same_threshold_again_goes_on(model):
    for threshold in (0.4, 0.4, 0.5):
        sc.dynamic_pruning(model, threshold)
    assert [step["threshold"] for step in model.provenance] == [0.4, 0.5]
    zeros = sum(int((layer.params["weight"] == 0).sum()) for layer in model.layers)
    assert model.provenance[-1]["sparsity"] == zeros / (16 * 8 + 3 * 16)


def test_two_pruners_are_two_steps(model):
    one = sc.DynamicPruner(sc.SparseDynamic(0.9, rate=0.1, every=1, include="dense"))
    two = sc.DynamicPruner(sc.SparseDynamic(0.5, rate=0.1, every=1, include="dense_1", granularity="3x1"))
    train(model, one, two)
    assert [step["tensors"] for step in model.provenance] == [["dense.weight"], ["dense_1.weight"]]
    assert [step["sparsity"] for step in model.provenance] == [one.sparsity, two.sparsity]
    assert model.build((8,), 0).provenance == []


@pytest.mark.parametrize("method", [sc.Gradual(0.5, every=2), sc.RigL(0.5, scope="erk", every=2)])
def test_training_leaves_its_method(model, method):
    pruner = sc.DynamicPruner(method)
    train(model, pruner)
    (step,) = model.provenance
    assert (step["method"], step["scope"]) == (type(method).__name__, method.scope)
    assert step["sparsity"] == pytest.approx(pruner.sparsity)


def test_of_what_a_stop_rule_brought_back(model):
    pruner = sc.DynamicPruner(sc.Gradual(0.9, begin=0.0, end=1.0, every=4), stop=sc.MaxDrop(0.0))
    x = np.random.default_rng(0).normal(size=(64, 8))
    data = (x, np.arange(64) % 3)
    model.fit(*data, epochs=4, batch_size=16, validation_data=data, callbacks=[pruner], random_state=0)
    held = sum(int(mask.sum()) for mask in model.masks.values())
    (step,) = model.provenance
    assert step["sparsity"] == pytest.approx(1 - held / (16 * 8 + 3 * 16))
    assert step["sparsity"] < pruner.sparsity


@pytest.mark.parametrize("granularity", ["weight", "neuron"])
@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_files(model, tmp_path, suffix, granularity):
    if suffix == ".onnx":
        pytest.importorskip("onnx_ir")
    path = tmp_path / f"m{suffix}"
    pruned = sc.prune(model, 0.5, granularity=granularity, round_to=None).model
    sc.export_onnx(pruned, path) if suffix == ".onnx" else sc.save(pruned, path)
    again = sc.load(path)
    assert again.provenance == pruned.provenance and len(again.provenance) == 1
    further = sc.prune(again, 0.75).model
    sc.save(further, path)
    assert [step["granularity"] for step in sc.load(path).provenance] == [granularity, "weight"]


def test_checkpoints(model, tmp_path):
    train(model, sc.DynamicPruner(sc.Gradual(0.5, every=2)), nn.Checkpoint(tmp_path))
    train(model, nn.Checkpoint(tmp_path))
    assert sc.load(tmp_path / "last.safetensors").model.provenance == model.provenance


def inspect(path, capsys, *options):
    with pytest.raises(SystemExit) as caught:
        main(["inspect", str(path), *options])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_inspect(model, tmp_path, capsys):
    for path in (tmp_path / "m.safetensors", tmp_path / "m.onnx"):
        sc.save(model, path) if path.suffix != ".onnx" else sc.export_onnx(model, path)
        assert "pruned by" not in inspect(path, capsys)
        pruned = sc.prune(model, 0.5, scope="lamp").model
        sc.save(pruned, path) if path.suffix != ".onnx" else sc.export_onnx(pruned, path)
        out = inspect(path, capsys)
        assert "pruned by" in out and "lamp" in out
        assert json.loads(inspect(path, capsys, "--json"))["provenance"] == pruned.provenance


@pytest.mark.parametrize(
    "text", ["", "null", "[1]", '{"a": 1}', '[{"method": 3}]', "[" * 100_000, '[{"sparsity": "x"}]']
)
def test_nonsense_is_nothing(text):
    assert provenance.loads(text) == []


def test_names_are_not_markup(capsys):
    print_table([{"name": "a[/x]b[red]c\x1b[31m"}], [Column("layer [0]", "name")], "m[/].onnx")
    out = capsys.readouterr().out
    assert "a[/x]b[red]c\N{REPLACEMENT CHARACTER}[31m" in out and "m[/].onnx" in out and "layer [0]" in out
