"""Plans against the models they were compiled from."""

from __future__ import annotations

import json

import numpy as np
import pytest

import reference
import secateur as sc
from secateur import nn
from secateur.description import describe


def cnn(**options):
    model = nn.Sequential(
        [
            nn.Conv2D(6, 3, activation="relu", **options),
            nn.BatchNorm(),
            nn.MaxPool2D(2),
            nn.Conv2D(10, 3, strides=2, padding="same", use_bias=False),
            nn.BatchNorm(),
            nn.ReLU(),
            nn.AveragePool2D(2),
            nn.Flatten(),
            nn.Dense(12, activation="tanh"),
            nn.Dense(5, activation="softmax"),
        ]
    )
    model.build((2, 16, 18), random_state=0)
    rng = np.random.default_rng(0)
    for buffers in [layer.buffers for layer in model.layers if layer.buffers]:
        buffers["running_mean"] += rng.standard_normal(buffers["running_mean"].shape, dtype=np.float32) * 0.1
        buffers["running_var"] += rng.random(buffers["running_var"].shape, dtype=np.float32)
    return model


def pruned(model, density=0.3):
    rng = np.random.default_rng(1)
    model.set_masks({name: rng.random(model.parameters()[name].shape) < density for name in model.prunable()})
    return model


@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"strides": 2}])
@pytest.mark.parametrize("target", sc._core.cpu_targets())
def test_plans_equal_their_models(options, target):
    model = pruned(cnn(**options))
    plan = sc.compile(model, batch=(1, 8, 32), threads=2, target=target)
    rng = np.random.default_rng(2)
    for n in (0, 1, 2, 7, 8, 31, 32, 50):
        x = rng.standard_normal((n, 2, 16, 18), dtype=np.float32)
        before = x.copy()
        y = plan(x)
        assert y.shape == (n, 5) and y.dtype == np.float32
        if n:
            np.testing.assert_allclose(y, model.predict(x), atol=2e-6)
        assert np.array_equal(x, before)


def grouped(filters, groups):
    """Depthwise, dilated, and in groups."""
    model = nn.Sequential(
        [
            nn.Conv2D(8, 3, padding="same", dilation=(2, 1), activation="relu"),
            nn.Conv2D(filters, 3, padding="same", groups=8, use_bias=False),
            nn.BatchNorm(),
            nn.ReLU(),
            nn.Conv2D(12, 3, strides=2, groups=groups, dilation=(1, 2), activation="tanh"),
            nn.Conv2D(12, 5, padding="same", groups=12, activation="sigmoid"),
            nn.Flatten(),
            nn.Dense(5),
        ]
    )
    return model.build((2, 16, 18), random_state=0)


@pytest.mark.parametrize(("filters", "groups"), [(8, 2), (16, 4)])
@pytest.mark.parametrize("target", sc._core.cpu_targets())
def test_groups_and_dilation_run_and_survive_files(filters, groups, target, tmp_path):
    for model in (grouped(filters, groups), pruned(grouped(filters, groups))):
        plan = sc.compile(model, batch=(1, 32), target=target)
        sc.save(plan, tmp_path / "plan.safetensors")
        loaded = sc.load(tmp_path / "plan.safetensors")
        sc.save(model, tmp_path / "model.safetensors")
        again = sc.load(tmp_path / "model.safetensors")
        assert [layer.config() for layer in again.layers] == [layer.config() for layer in model.layers]
        for n in (1, 5, 32, 33):
            x = np.random.default_rng(n).standard_normal((n, 2, 16, 18), dtype=np.float32)
            np.testing.assert_allclose(plan(x), model.predict(x), atol=5e-6)
            np.testing.assert_allclose(loaded(x), model.predict(x), atol=5e-6)
            assert np.array_equal(again.predict(x), model.predict(x))
    macs = [row["macs"] for row in plan.report(1, dense=False) if row["op"] == "Conv2D"]
    assert macs == [layer.macs() for layer in model.layers if isinstance(layer, nn.Conv2D)]


def test_descriptions_without_dilation_and_groups_mean_one():
    input_shape, description = describe(cnn())
    old = [{key: node[key] for key in node if key not in ("dilation", "groups")} for node in description]
    x = np.random.default_rng(0).standard_normal((2, 2, 16, 18), dtype=np.float32)
    plans = [sc.Plan(input_shape, nodes, [2], timed=False) for nodes in (old, description)]
    assert np.array_equal(plans[0](x), plans[1](x))


@pytest.mark.parametrize("target", sc._core.cpu_targets())
def test_wide_convolutions_run_by_winograds_algorithm(target, tmp_path):
    model = nn.Sequential([nn.Conv2D(40, 3, padding="same")]).build((64, 14, 17), random_state=0)
    rng = np.random.default_rng(0)
    layer = model.layers[0]
    weight, bias = layer.params["weight"], rng.standard_normal(40, dtype=np.float32)
    layer.set_weights([weight, bias])
    # By the cost model, which does not depend on the day.
    plan = sc.Plan(*describe(model), [1, 2], target=target, timed=False)
    sc.save(plan, tmp_path / "plan.safetensors")
    for n in (1, 2):
        kernels = [row["kernel"] for row in plan.report(n, dense=False)]
        assert f"winograd_f32_4x3__{target}" in kernels
        x = rng.standard_normal((n, 64, 14, 17), dtype=np.float32)
        error = abs(plan(x) - reference.conv2d(x, weight, bias, (1, 1), layer.pads))
        assert (error <= reference.winograd_bound(x, weight, bias, layer.pads)).all()
    timed = sc.compile(model, batch=1, target=target, choices=plan.choices)
    assert np.array_equal(timed(x[:1]), plan(x[:1]))
    if target == sc.cpu_target():
        assert np.array_equal(sc.load(tmp_path / "plan.safetensors")(x), plan(x))
    # Without it: no choice, no replay, and a file says so.
    without = sc.compile(model, batch=1, target=target, winograd=False)
    assert "winograd" not in json.dumps(without.choices) and not without.winograd
    with pytest.raises(ValueError, match="cannot run"):
        sc.compile(model, batch=1, target=target, choices=plan.choices, winograd=False)
    sc.save(without, tmp_path / "without.safetensors")
    loaded = sc.load(tmp_path / "without.safetensors").tune()
    assert "winograd" not in json.dumps(loaded.choices) and not loaded.winograd


def test_a_plan_keeps_its_own_weights():
    model = nn.Sequential([nn.Dense(4)])
    model.build((3,), random_state=0)
    plan = sc.compile(model, batch=1)
    x = np.ones((1, 3), np.float32)
    before = plan(x)
    model.parameters()["dense.weight"][:] = 0
    assert np.array_equal(plan(x), before)


def test_choices_replay_bit_for_bit_and_survive_files(tmp_path):
    model = pruned(cnn())
    plan = sc.compile(model, batch=(1, 32), threads=2)
    assert json.loads(json.dumps(plan.choices)) == plan.choices
    x = np.random.default_rng(3).standard_normal((32, 2, 16, 18), dtype=np.float32)
    again = sc.compile(model, batch=(1, 32), threads=1, choices=plan.choices)
    assert again.choices == plan.choices
    assert np.array_equal(again(x), plan(x))
    sc.save(plan, tmp_path / "plan.safetensors")
    loaded = sc.load(tmp_path / "plan.safetensors")
    assert loaded.choices == plan.choices
    for n in (1, 5, 32):
        assert np.array_equal(loaded(x[:n]), plan(x[:n]))
    sc.save(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "plan.safetensors").read_bytes()


def test_on_another_cpu_the_cost_model_chooses(tmp_path, monkeypatch):
    model = pruned(cnn())
    plan = sc.compile(model, batch=1)
    sc.save(plan, tmp_path / "plan.safetensors")
    monkeypatch.setattr("secateur.storage._core.cpu_signature", lambda target: "another")
    loaded = sc.load(tmp_path / "plan.safetensors")
    x = np.random.default_rng(4).standard_normal((1, 2, 16, 18), dtype=np.float32)
    np.testing.assert_allclose(loaded(x), plan(x), atol=1e-6)
    np.testing.assert_allclose(loaded.tune()(x), plan(x), atol=1e-6)


def test_bits_do_not_depend_on_threads():
    model = pruned(cnn())
    plan = sc.compile(model, batch=(1, 32), threads=1)
    # The large batch is one that threads share; the small ones stay with the caller.
    x = np.random.default_rng(5).standard_normal((512, 2, 16, 18), dtype=np.float32)
    wanted = {n: plan(x[:n]) for n in (1, 32, 512)}
    for threads in (2, 3, 8):
        other = sc.compile(model, batch=(1, 32), threads=threads, choices=plan.choices)
        for _ in range(20):
            assert all(np.array_equal(other(x[:n]), y) for n, y in wanted.items())


def test_large_batches_run_in_slices():
    plan = sc.compile(pruned(cnn()), batch=(1, 32), threads=1)
    x = np.random.default_rng(6).standard_normal((300, 2, 16, 18), dtype=np.float32)
    parts = [plan(x[start : start + 128]) for start in (0, 128, 256)]
    assert np.array_equal(plan(x), np.concatenate(parts))
    assert plan.activation_bytes(5000) == plan.activation_bytes(128) > plan.activation_bytes(32)
    assert "batch 5000, 128 at a time" in plan.explain(5000)
    assert len(sc.compile(pruned(cnn()), batch=160, threads=1).report(160)) > 0


def test_explain_and_report():
    plan = sc.compile(pruned(cnn(), 0.05), batch=16, threads=1)
    rows = plan.report(seconds=0.002)
    weighted = [row for row in rows if row["us_dense"] is not None]
    assert [row["op"] for row in weighted] == ["Conv2D", "Conv2D", "Dense", "Dense"]
    assert all(
        0 < row["density"] < 0.2 and row["us"] > 0 and row["nonzero_macs"] < row["macs"] for row in weighted
    )
    text = plan.explain(16)
    assert "batch 16" in text and "conv2d_1" in text and "peak activations" in text
    assert "batch_norm" not in text.replace("batch_norm ", "") or "Scale" in text


def test_non_finite_inputs_are_refused_where_asked():
    plan = sc.compile(cnn(), batch=1)
    x = np.zeros((1, 2, 16, 18), np.float32)
    x[0, 1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="x: expected finite"):
        plan(x, check_finite=True)


class Odd(nn.Dense):
    kind = "odd"


class Nameless(nn.Layer):
    """A user's layer that says nothing about itself."""


def spoilt(model, value):
    model.layers[0].params["weight"].flat[5] = value
    return model


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: sc.compile(m, batch=()), ValueError, "batch"),
        (lambda m: sc.compile(m, batch=[0]), ValueError, "batch"),
        (lambda m: sc.compile(m, batch=[1.5]), ValueError, "batch"),
        (lambda m: sc.compile(m, threads=0), ValueError, "threads"),
        (lambda m: sc.compile(m, target="neon"), ValueError, "target: unknown"),
        (lambda m: sc.compile(m, batch=1, choices={"1": []}), ValueError, "choices"),
        (lambda m: sc.compile(m, batch=1, choices={"1": "x"}), ValueError, "choices"),
        (lambda m: sc.compile(nn.Sequential([nn.Dense(3)])), ValueError, "not built"),
        (lambda m: sc.compile(3), sc.UnsupportedOpError, "int"),
        (lambda m: sc.compile(spoilt(m, np.nan)), ValueError, "model: conv2d's weight holds NaN"),
        (lambda m: sc.compile(spoilt(m, -np.inf)), ValueError, "model: conv2d's weight holds NaN"),
        (
            lambda m: sc.compile(m, batch=1)(np.zeros((1, 3))),
            ValueError,
            r"x: expected shape \(n, 2, 16, 18\)",
        ),
        (lambda m: sc.compile(m, batch=1)(np.zeros((1, 2, 16, 18), complex)), TypeError, "x: expected real"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(cnn())
    assert "\n" not in str(caught.value)


def test_a_layer_that_plans_cannot_run_is_named():
    model = nn.Sequential([nn.Dense(3), Odd(2)])
    model.build((4,), random_state=0)
    with pytest.raises(sc.UnsupportedOpError, match="odd"):
        sc.compile(model)
    with pytest.raises(sc.UnsupportedOpError, match=r"layer: .* Nameless"):
        sc.compile(nn.Sequential([nn.Dense(3), Nameless()]).build((4,), random_state=0))
