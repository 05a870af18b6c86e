"""Plans as custom ops of ONNX Runtime."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import secateur as sc
from secateur import nn
from secateur.storage import encode

RNG = np.random.default_rng


def pruned(model, density=0.2):
    rng = RNG(1)
    model.set_masks({name: rng.random(model.parameters()[name].shape) < density for name in model.prunable()})
    return model


def ffn():
    layers = [nn.Dense(96, activation="relu"), nn.Dense(48)]
    return pruned(nn.Sequential(layers).build((48,), random_state=0))


def cnn():
    layers = [
        nn.Conv2D(8, 3, padding="same", activation="relu"),
        nn.MaxPool2D(2),
        nn.Conv2D(12, 3, activation="tanh"),
        nn.Flatten(),
        nn.Dense(5, activation="softmax"),
    ]
    return pruned(nn.Sequential(layers).build((2, 12, 14), random_state=0))


def tagger():
    layers = [nn.LSTM(16, return_sequences=True), nn.TimeDistributed(nn.Dense(4))]
    return pruned(nn.Sequential(layers).build((7, 6), random_state=0))


MODELS = {"ffn": ffn, "cnn": cnn, "tagger": tagger}


def onnx_of(plan, x_shape, *, attributes=True, constant=True, blob=None):
    """A model of one node, as bytes."""
    shapes = {}
    if attributes:
        sample = plan(np.zeros((1, *plan.input_shape), np.float32)).shape[1:]
        shapes = {"input_shape": list(plan.input_shape), "output_shape": list(sample)}
    node = helper.make_node("Plan", ["x", "plan"], ["y"], name="body", domain="secateur", **shapes)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)]
    weights = np.frombuffer(encode(plan) if blob is None else blob, np.uint8)
    initializers = [numpy_helper.from_array(weights, "plan")]
    if not constant:
        inputs.append(helper.make_tensor_value_info("plan", TensorProto.UINT8, ["bytes"]))
        initializers = []
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("secateur", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def session(model, threads=1, **options):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    for name, value in options.items():
        setattr(settings, name, value)
    return sc.ort.InferenceSession(model, settings)


def run(running, x):
    return running.run(None, {"x": x})[0]


@pytest.mark.parametrize("name", MODELS)
def test_outputs_equal_the_models(name):
    model = MODELS[name]()
    plan = sc.compile(model, batch=(1, 32), threads=1)
    sessions = [session(onnx_of(plan, ["n", *plan.input_shape]), threads) for threads in (1, 2)]
    for n in (0, 1, 3, 17, 256):
        x = RNG(n).standard_normal((n, *plan.input_shape), np.float32)
        first, second = (run(one, x) for one in sessions)
        # However many threads a session has.
        assert np.array_equal(first, second)
        assert first.shape == plan(x).shape
        if n:
            np.testing.assert_allclose(first, model.predict(x), atol=5e-6)


def test_same_cpu_replays_the_choices():
    plan = sc.compile(cnn(), batch=(1, 32), threads=1)
    running = session(onnx_of(plan, ["n", *plan.input_shape]))
    x = RNG(0).standard_normal((32, *plan.input_shape), np.float32)
    assert np.array_equal(run(running, x), plan(x))


def test_vectors_lie_in_any_number_of_axes():
    model = ffn()
    plan = sc.compile(model, batch=(1, 32))
    running = session(onnx_of(plan, ["b", "s", 48]))
    assert running.get_outputs()[0].shape == ["b", "s", 48]
    for shape in [(1, 1), (2, 3), (4, 100), (0, 5), (3, 0), (1, 127), (3, 43)]:
        x = RNG(0).standard_normal((*shape, 48), np.float32)
        wanted = model.predict(x.reshape(-1, 48)) if x.size else np.zeros((0, 48))
        found = run(running, x)
        assert found.shape == x.shape
        np.testing.assert_allclose(found.reshape(-1, 48), wanted, atol=5e-6)
    alone = session(onnx_of(plan, [48]))
    assert alone.get_outputs()[0].shape == [48]
    np.testing.assert_allclose(run(alone, x[0, 0]), found[0, 0], atol=5e-6)


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [(["n", 2, 12, 14], ["n", 5]), ([3, 2, 12, 14], [3, 5]), ([None, 2, 12, 14], None), (None, None)],
)
def test_shapes_are_inferred(x_shape, y_shape):
    plan = sc.compile(cnn(), batch=3)
    running = session(onnx_of(plan, x_shape))
    assert y_shape is None or running.get_outputs()[0].shape == y_shape
    x = RNG(0).standard_normal((3, 2, 12, 14), np.float32)
    np.testing.assert_allclose(run(running, x), plan(x), atol=5e-6)


def test_sessions_are_shared_by_threads():
    plan = sc.compile(ffn(), batch=(1, 32))
    running = session(onnx_of(plan, ["n", 48]), 2)
    batches = [RNG(n).standard_normal((n, 48), np.float32) for n in (1, 5, 32, 200)]
    wanted = [run(session(onnx_of(plan, ["n", 48])), x) for x in batches]
    failures = []

    def work(first):
        for turn in range(200):
            i = (first + turn) % len(batches)
            if not np.array_equal(run(running, batches[i]), wanted[i]):
                failures.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [worker.start() for worker in workers]
    [worker.join(60) for worker in workers]
    assert not failures and not any(worker.is_alive() for worker in workers)


def test_registering_twice_is_once():
    options = onnxruntime.SessionOptions()
    sc.ort.register(options)
    sc.ort.register(options)
    plan = sc.compile(ffn(), batch=1)
    x = np.ones((1, 48), np.float32)
    for _ in range(2):
        assert run(sc.ort.InferenceSession(onnx_of(plan, ["n", 48]), options), x).shape == (1, 48)


def test_weights_may_lie_in_another_file_at_any_byte(tmp_path):
    plan = sc.compile(ffn(), batch=1)
    model = onnx.load_from_string(onnx_of(plan, ["n", 48]))
    (tensor,) = model.graph.initializer
    (tmp_path / "weights").write_bytes(b"x" + tensor.raw_data)
    place = {"location": "weights", "offset": "1", "length": str(len(tensor.raw_data))}
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    onnx.save(model, tmp_path / "model.onnx")
    x = np.ones((2, 48), np.float32)
    found = run(session(tmp_path / "model.onnx"), x)
    np.testing.assert_allclose(found, plan(x), atol=5e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blob": b"no plan"}, "truncated or no secateur file"),
        ({"blob": b""}, "truncated or no secateur file"),
        ({"blob": encode(ffn())}, 'expected a file of kind "plan", got "model"'),
        ({"constant": False}, "plan: expected a constant initializer"),
        (
            {"blob": encode(sc.compile(cnn(), batch=1))},
            r"input_shape: the node says \[48\], its plan \[2, 12, 14\]",
        ),
    ],
)
def test_a_bad_plan_is_named(options, message):
    plan = sc.compile(ffn(), batch=1)
    with pytest.raises(Exception, match=f'secateur.Plan "body": {message}'):
        session(onnx_of(plan, ["n", 48], **options))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("ffn", (3, 47), r"expected shape \(..., 48\), got \[3, 47\]"),
        ("ffn", (), r"expected shape \(..., 48\), got \[\]"),
        ("cnn", (2, 12, 14), r"expected shape \(n, 2, 12, 14\), got \[2, 12, 14\]"),
        ("cnn", (1, 1, 2, 12, 14), r"expected shape \(n, 2, 12, 14\)"),
        ("tagger", (1, 7, 5), r"expected shape \(n, 7, 6\), got \[1, 7, 5\]"),
    ],
)
def test_a_wrong_shape_is_named(name, shape, message):
    running = session(onnx_of(sc.compile(MODELS[name](), batch=1), None, attributes=False))
    with pytest.raises(Exception, match=f'secateur.Plan "body": x: {message}'):
        run(running, np.zeros(shape, np.float32))
    x = np.zeros((1, *MODELS[name]().input_shape), np.float32)
    assert np.isfinite(run(running, x)).all()


@pytest.mark.parametrize("name", ["ffn", "cnn"])
def test_damaged_plans_are_errors_and_no_crash(name):
    plan = sc.compile(MODELS[name](), batch=(1, 4))
    whole = encode(plan)
    rng = RNG(0)
    x = np.zeros((2, *plan.input_shape), np.float32)
    header = 8 + int.from_bytes(whole[:8], "little")
    for turn in range(300):
        blob = bytearray(whole)
        end = header if turn % 2 else len(blob)
        for _ in range(rng.integers(1, 4)):
            blob[rng.integers(end)] = rng.integers(256)
        if turn % 5 == 0:
            blob = blob[: rng.integers(len(blob))]
        model = onnx_of(plan, None, attributes=False, blob=bytes(blob))
        try:
            run(session(model), x)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            assert "internal error" not in str(error)
        except Exception as error:
            assert type(error).__module__.startswith("onnxruntime"), error
            assert "internal error" not in str(error), error


def test_options_of_another_kind_are_refused():
    with pytest.raises(TypeError, match=r"session_options: expected onnxruntime.SessionOptions, got dict"):
        sc.ort.register({})


def test_an_old_onnxruntime_is_refused(monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.16.3")
    with pytest.raises(sc.UnsupportedOpError, match=r"needs ONNX Runtime 1.17 or newer, this is 1.16.3"):
        sc.ort.register(onnxruntime.SessionOptions())


def test_without_onnxruntime_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(sc.MissingExtraError, match=r"secateur\[ort\]"):
        sc.ort.register(None)


def test_the_extension_module_exports_both_entry_points():
    library = ctypes.CDLL(sc._core.__file__)
    assert library.RegisterCustomOps and library.PyInit__core


LOADER = """
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments) {
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        puts(dlerror());
        return 1;
    }
    return dlsym(library, "RegisterCustomOps") == NULL;
}
"""


def test_programs_without_python_have_a_library_of_their_own(tmp_path):
    pytest.importorskip("secateur_ort", reason="make test installs secateur-ort")
    (tmp_path / "loader.c").write_text(LOADER)
    subprocess.run(["cc", "-o", tmp_path / "loader", tmp_path / "loader.c", "-ldl"], check=True)
    loaded = subprocess.run([tmp_path / "loader", sc.ort.library_path()], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stdout
    refused = subprocess.run([tmp_path / "loader", sc._core.__file__], capture_output=True, text=True)
    assert "undefined symbol" in refused.stdout


def test_that_library_gives_the_same_results():
    pytest.importorskip("secateur_ort", reason="make test installs secateur-ort")
    plan = sc.compile(ffn(), batch=3)
    x = RNG(0).standard_normal((3, 48), np.float32)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(sc.ort.library_path())
    session = onnxruntime.InferenceSession(onnx_of(plan, ["n", 48]), options)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], plan(x))


def test_without_secateur_ort_its_name_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "secateur_ort", None)
    with pytest.raises(sc.MissingExtraError, match="pip install secateur-ort"):
        sc.ort.library_path()
