"""Runs that go on from a checkpoint with callbacks that it does not know, or that had ended."""

import numpy as np
import pytest

import secateur as sc
from secateur import nn

X = np.random.default_rng(0).normal(size=(64, 8))
Y = (X[:, 0] > 0).astype(int)
TOTAL = 8 * 16 + 16 * 2


def model():
    return nn.Sequential([nn.Dense(16, activation="relu"), nn.Dense(2)])


def fit(epochs, *callbacks, **more):
    trained = model()
    more = {"random_state": 0, "batch_size": 16, "progress": False, **more}
    history = trained.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **more)
    return trained, history


@pytest.mark.parametrize(
    "method",
    [
        lambda: sc.Gradual(0.5, every=2),
        lambda: sc.Gradual(0.5, every=2, granularity="neuron"),
        lambda: sc.SET(0.5, every=2),
        lambda: sc.SNIP(0.5),
        lambda: sc.DNS(0.5, every=2),
        lambda: sc.ACDC(0.5, cycles=2),
    ],
)
def test_a_pruner_may_begin_with_a_resumed_run(method, tmp_path):
    fit(2, nn.Checkpoint(tmp_path))
    pruner = sc.DynamicPruner(method())
    trained, _ = fit(8, pruner, nn.Checkpoint(tmp_path), resume=sc.load(tmp_path / "last.safetensors"))
    left = sum(int(np.count_nonzero(layer.params["weight"])) for layer in trained.layers)
    assert pruner.sparsity == pytest.approx(0.5, abs=0.05)
    assert left / TOTAL == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("method", [sc.Gradual(0.5, every=2), sc.ACDC(0.5, cycles=2), sc.DNS(0.5, every=2)])
def test_a_pruner_whose_time_is_over_is_refused(method, tmp_path):
    fit(7, nn.Checkpoint(tmp_path))
    resume = sc.load(tmp_path / "last.safetensors")
    with pytest.raises(ValueError, match=r"^end: \w+ is over before batch 28, where the run goes on"):
        fit(8, sc.DynamicPruner(method), nn.Checkpoint(tmp_path), resume=resume)


def test_a_run_that_early_stopping_had_ended_stays_so(tmp_path):
    def run(patience, **more):
        stop = nn.EarlyStopping("val_loss", patience=patience, min_delta=10.0)
        data = {"validation_data": (X, Y), **more}
        return *fit(20, stop, nn.Checkpoint(tmp_path), **data), stop

    one, history, _ = run(2)
    assert len(history.epochs) == 3
    for _ in range(2):
        two, again, _ = run(2, resume=sc.load(tmp_path / "last.safetensors"))
        assert again.epochs == history.epochs
        for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    _, longer, _ = run(4, resume=sc.load(tmp_path / "last.safetensors"))
    assert len(longer.epochs) == 5


def test_a_run_that_a_stop_rule_had_ended_stays_so(tmp_path):
    def run(**more):
        pruner = sc.DynamicPruner(sc.SparseDynamic(0.99, rate=0.2), stop=sc.MaxDrop(0.0))
        trained, history = fit(
            30, pruner, nn.Checkpoint(tmp_path), validation_data=(X, Y), optimizer=nn.Adam(0.03), **more
        )
        return trained, history, pruner

    one, history, pruner = run()
    assert len(history.epochs) < 30
    two, again, resumed = run(resume=sc.load(tmp_path / "last.safetensors"))
    assert again.epochs == history.epochs and resumed.history == pruner.history
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_folder_gets_all_files(tmp_path):
    fit(2, nn.Checkpoint(tmp_path / "a"))
    resume = sc.load(tmp_path / "a" / "last.safetensors")
    resume.callbacks_state["Checkpoint"]["best"] = 0.0  # nothing will be better
    fit(3, nn.Checkpoint(tmp_path / "b"), resume=resume)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        "best.safetensors",
        "history.jsonl",
        "last.safetensors",
    }


def test_provenance_goes_along(tmp_path):
    pruned = sc.prune(model().build((8,), 0), 0.25).model
    data = {"batch_size": 16, "random_state": 0, "progress": False}
    pruned.fit(X, Y, epochs=1, callbacks=[nn.Checkpoint(tmp_path)], **data)
    resume = sc.load(tmp_path / "last.safetensors")
    trained, _ = fit(2, sc.DynamicPruner(sc.SNIP(0.5)), nn.Checkpoint(tmp_path), resume=resume)
    assert [step["method"] for step in trained.provenance] == ["prune", "SNIP"]


def test_provenance_is_that_of_the_epoch_that_comes_back(tmp_path):
    stop = nn.EarlyStopping("val_loss", patience=50)
    pruner = sc.DynamicPruner(sc.Gradual(0.99, every=1, begin=0.5, end=1.0))
    trained, _ = fit(
        10, pruner, stop, nn.Checkpoint(tmp_path), validation_data=(X, Y), optimizer=nn.Adam(0.01)
    )
    left = sum(int(np.count_nonzero(layer.params["weight"])) for layer in trained.layers)
    told = trained.provenance[-1]["sparsity"] if trained.provenance else 0.0
    assert told == pytest.approx(1 - left / TOTAL)
    best = sc.load(tmp_path / "best.safetensors")
    assert best.provenance == trained.provenance
