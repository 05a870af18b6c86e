"""ONNX models with custom ops in place of pruned chains, against the models they were made of."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import secateur as sc
from secateur.cli import main
from secateur.measure import Latency
from secateur.onnx import rewrite
from secateur.onnx.model import OnnxModel
from secateur.onnx.rewrite import compile_onnx

RNG = np.random.default_rng

FFN = """<ir_version: 8, opset_import: ["": 17]>
net (float[B,S,64] x) => (float[B,S,64] y) {
    a = MatMul(x, w1)
    b = Add(a, b1)
    c = Relu(b)
    d = MatMul(c, w2)
    e = Add(d, b2)
    y = Softmax<axis=1>(e)
}"""

CNN = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,3,16,16] x) => (float[N,10] y, int64[N] best) {
    a = Conv<pads=[1,1,1,1]>(x, w1)
    n = BatchNormalization(a, scale, shift, mean, var)
    b = Relu(n)
    c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
    d = Conv<pads=[1,1,1,1]>(c, w2)
    s = Add(d, c)
    e = Relu(s)
    f = Flatten(e)
    y = Gemm<transB=1>(f, w3)
    best = ArgMax<axis=1, keepdims=0>(y)
}"""


LINES = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,8,30] x) => (float[N,16,28] y) {
    a = Conv(x, w1)
    y = Tanh(a)
}"""

LSTM = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,6,8] x) => (float[N,6,16] y) {
    t = Transpose<perm=[1,0,2]>(x)
    h = LSTM<hidden_size=16>(t, w1, w2)
    s = Squeeze(h, axis)
    y = Transpose<perm=[1,0,2]>(s)
}"""


def sparse(rng, *shape, density=0.05):
    return rng.standard_normal(shape, np.float32) * (rng.random(shape) < density)


def ffn(density=0.05):
    rng = RNG(0)
    return model_of(
        FFN,
        w1=sparse(rng, 64, 256, density=density),
        b1=rng.standard_normal(256),
        w2=sparse(rng, 256, 64, density=density),
        b2=rng.standard_normal(64),
    )


def cnn():
    rng = RNG(0)
    ones = {name: rng.random(16) + 0.5 for name in ("scale", "var")}
    return model_of(
        CNN,
        w1=sparse(rng, 16, 3, 3, 3, density=1),
        w2=sparse(rng, 16, 16, 3, 3),
        w3=sparse(rng, 10, 16 * 64),
        shift=rng.standard_normal(16),
        mean=rng.standard_normal(16),
        **ones,
    )


def model_of(text, **weights):
    """The model of a text, whose weights are arrays, as it comes from a file."""
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(array), name))
    return proto


@pytest.fixture
def files(tmp_path):
    def write(proto):
        onnx.save(proto, tmp_path / "model.onnx")
        return tmp_path / "model.onnx", tmp_path / "sparse.onnx"

    return write


@pytest.fixture
def clock(monkeypatch):
    """Latencies by decree: tests assert no times."""
    speedups = {"plan": 2.0, "rewritten": 2.0}

    def latencies(sessions, feed, rounds):
        return {name: Latency(10.0, speedups.get(name, 1.0)) for name in sessions}

    monkeypatch.setattr(rewrite, "_latencies", latencies)
    return speedups


def outputs(path, x, threads=1):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return sc.ort.InferenceSession(path, settings).run(None, {"x": x})


def ops(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_chains_become_plans(files, clock):
    source, out = files(ffn())
    done = compile_onnx(source, out, batch=(1, 4), threads=1, rounds=1)
    assert ops(out) == ["Plan", "Softmax"]
    assert [(part.kept, part.chain.name) for part in done.parts] == [(True, "e")]
    assert done.error < 1e-5 and sorted(done.latencies) == [1, 4]
    # Values and one bit a weight in place of floats.
    assert done.nbytes[1] < 0.2 * done.nbytes[0]
    assert out.stat().st_size < 0.2 * source.stat().st_size
    # Symbolic dimensions are still there, and with them shape inference.
    (y,) = onnx.load(out).graph.output
    assert [dim.dim_param or dim.dim_value for dim in y.type.tensor_type.shape.dim] == ["B", "S", 64]
    for shape in [(1, 1), (2, 7), (4, 128), (0, 3), (3, 0)]:
        x = RNG(0).standard_normal((*shape, 64), np.float32)
        wanted = onnxruntime.InferenceSession(source).run(None, {"x": x})[0]
        for threads in (1, 2):
            (found,) = outputs(out, x, threads)
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("text", [LINES, LSTM])
def test_lines_and_sequences_become_plans(text, files, clock):
    rng = RNG(0)
    shapes = [(16, 8, 3)] if text is LINES else [(1, 64, 8), (1, 64, 16)]
    proto = model_of(text, **{f"w{i}": sparse(rng, *shape, density=0.3) for i, shape in enumerate(shapes, 1)})
    if text is LSTM:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    source, out = files(proto)
    compile_onnx(source, out, batch=2, threads=1, rounds=1)
    assert ops(out) == (["Reshape", "Plan", "Reshape"] if text is LINES else ["Plan"])
    shape = [dim.dim_value for dim in onnx.load(out).graph.output[0].type.tensor_type.shape.dim[1:]]
    assert shape == ([16, 28] if text is LINES else [6, 16])
    for n in (1, 2, 5):
        x = rng.standard_normal((n, 8, 30) if text is LINES else (n, 6, 8), np.float32)
        wanted = onnxruntime.InferenceSession(source).run(None, {"x": x})[0]
        np.testing.assert_allclose(outputs(out, x)[0], wanted, rtol=1e-4, atol=1e-5)


FREE = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,3,H,W] x) => (float[N,16,P,Q] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1)
    y = Relu(a)
}"""


def test_sizes_that_are_free_may_be_given(files, clock, capsys):
    source, out = files(model_of(FREE, w1=sparse(RNG(0), 16, 3, 3, 3, density=0.2)))
    assert not compile_onnx(source, out, batch=1, threads=1, rounds=1).parts
    with pytest.raises(SystemExit) as ended:
        main(["compile", str(source), "-o", str(out), "--shape", "x=N,3,12,14", "--batch", "2", "--json"])
    assert ended.value.code == 0 and json.loads(capsys.readouterr().out)
    assert ops(out) == ["Plan"]
    x = RNG(1).standard_normal((2, 3, 12, 14), np.float32)
    wanted = onnxruntime.InferenceSession(source).run(None, {"x": x})[0]
    np.testing.assert_allclose(outputs(out, x)[0], wanted, rtol=1e-4, atol=1e-5)
    given = sc.load(source).with_shapes({"x": ("N", 3, 12, 14)})
    assert given.outputs[0].shape == ("N", 16, 12, 14) and given.masks == {}


@pytest.mark.parametrize(
    "shapes, message",
    [
        ({"z": (1, 3, 4, 4)}, "shapes: the model has no input 'z'; it has x"),
        ({"x": (1, 4, 4, 4)}, "shapes: 'x' has the shape"),
        ({"x": (3, 4, 4)}, "shapes: 'x' has the shape"),
    ],
)
def test_sizes_that_do_not_fit_are_named(files, shapes, message):
    source, _ = files(model_of(FREE, w1=sparse(RNG(0), 16, 3, 3, 3)))
    with pytest.raises(ValueError, match=message):
        sc.load(source).with_shapes(shapes)


@pytest.mark.parametrize("text", ["x", "=1,3", ""])
def test_a_shape_on_the_command_line_has_a_name(files, text, capsys):
    source, out = files(model_of(FREE, w1=sparse(RNG(0), 16, 3, 3, 3)))
    with pytest.raises(SystemExit) as ended:
        main(["compile", str(source), "-o", str(out), "--shape", text])
    assert ended.value.code == 2 and "shape: expected NAME=N,3,224,224" in capsys.readouterr().err


def test_networks_of_images_become_plans(files, clock):
    source, out = files(cnn())
    done = compile_onnx(source, out, batch=3, threads=1, rounds=1)
    assert ops(out) == ["Plan", "ArgMax"] and done.parts[0].kept
    for n in (0, 1, 3, 17, 256):
        x = RNG(n).standard_normal((n, 3, 16, 16), np.float32)
        wanted = (
            onnxruntime.InferenceSession(source).run(None, {"x": x})
            if n
            else [np.zeros((0, 10)), np.zeros(0)]
        )
        found = outputs(out, x)
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-4)
        assert np.array_equal(found[1], wanted[1])


def test_what_is_not_faster_stays_as_it_was(files, clock):
    source, out = files(ffn())
    clock["plan"] = 1.0
    done = compile_onnx(source, out, batch=1, threads=1, rounds=1)
    assert "Plan" not in ops(out) and not any(part.kept for part in done.parts)
    x = RNG(0).standard_normal((2, 3, 64), np.float32)
    wanted = onnxruntime.InferenceSession(source).run(None, {"x": x})[0]
    assert np.array_equal(onnxruntime.InferenceSession(out).run(None, {"x": x})[0], wanted)


def test_what_is_slower_in_the_whole_is_taken_back(files, clock):
    source, out = files(ffn())
    clock["rewritten"] = 0.9
    done = compile_onnx(source, out, batch=1, threads=1, rounds=1)
    assert "Plan" not in ops(out) and not any(part.kept for part in done.parts)


def test_layers_are_tried_where_their_chain_is_not_faster(files, monkeypatch, clock):
    source, out = files(ffn())
    inner = rewrite._timed

    def timed(model, chain, *rest):
        part = inner(model, chain, *rest)
        part.kept = chain.name == "c"
        return part

    monkeypatch.setattr(rewrite, "_timed", timed)
    done = compile_onnx(source, out, batch=2, threads=1, rounds=1)
    assert ops(out) == ["Plan", "MatMul", "Add", "Softmax"]
    assert {part.chain.name: part.kept for part in done.parts} == {"c": True, "e": False}
    x = RNG(0).standard_normal((2, 3, 64), np.float32)
    wanted = onnxruntime.InferenceSession(source).run(None, {"x": x})[0]
    np.testing.assert_allclose(outputs(out, x)[0], wanted, rtol=1e-4, atol=1e-6)


def test_dense_chains_are_left_alone(files):
    source, out = files(ffn(density=1))
    done = compile_onnx(source, out, batch=1, threads=1, rounds=1)
    assert done.parts == [] and ops(out) == ops(source)


def test_a_rewritten_model_is_a_model(files, clock):
    source, out = files(ffn())
    compile_onnx(source, out, batch=1, threads=1, rounds=1)
    again = OnnxModel.load(out)
    assert repr(again) == repr(OnnxModel.load(source)).replace("6 nodes", "2 nodes")
    second = out.with_name("again.onnx")
    assert compile_onnx(again, second, batch=1, threads=1, rounds=1).parts == []
    assert second.read_bytes() == out.read_bytes()


def test_nothing_is_written_where_outputs_differ(files, clock, monkeypatch):
    source, out = files(ffn())
    monkeypatch.setattr(rewrite, "TOLERANCE", -1.0)
    with pytest.raises(sc.SecateurError, match=r"sparse\.onnx: not written: outputs differ by"):
        compile_onnx(source, out, batch=1, threads=1, rounds=1)
    assert not out.exists()


def test_a_model_that_does_not_run_is_named(files, clock):
    text = """<ir_version: 8, opset_import: ["": 17]>
    net (float[N,4] x) => (float[7,4] y)
    <int64[2] shape = {7, 4}> { a = MatMul(x, w) y = Reshape(a, shape) }"""
    source, out = files(model_of(text, w=np.eye(4)))
    with pytest.raises(sc.SecateurError, match=r"model\.onnx: not run by ONNX Runtime: .*") as caught:
        compile_onnx(source, out, batch=1, threads=1, rounds=1)
    assert "\n" not in str(caught.value) and not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch: expected"),
        ({"batch": ()}, "batch: expected"),
        ({"batch": (1, 2.5)}, "batch: expected"),
        ({"threads": 0}, "threads: expected 1 to 1024, got 0"),
        ({"out": "model.txt"}, "out: expected a path .* ends in .onnx"),
        ({"out": "nowhere/model.onnx"}, "out: expected"),
    ],
)
def test_bad_arguments_are_named(files, options, message, tmp_path):
    source, out = files(ffn())
    out = tmp_path / options.pop("out") if "out" in options else out
    with pytest.raises(ValueError, match=message):
        compile_onnx(source, out, **options)
    assert not out.exists()


def test_command_line(files, clock, capsys):
    source, out = files(ffn())
    with pytest.raises(SystemExit) as stop:
        main(["compile", str(source), "-o", str(out), "--batch", "1", "--threads", "1", "--json"])
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(out) and found["chains"][0]["kept"] and found["whole"][0]["batch"] == 1
    with pytest.raises(SystemExit) as stop:
        main(["compile", str(source), "-o", str(out), "--batch", "1"])
    assert stop.value.code == 0 and "speed-up" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["compile", str(source), "-o", str(out), "--target", "avx2"])
    assert stop.value.code == 2 and "target: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        ([1.0, 2.0], [1.0, np.nan], False),
        ([np.inf, 2.0], [7.0, 2.0], False),
        ([np.nan, -np.inf], [np.nan, -np.inf], True),
        ([1.0, 2.0], [1.0, np.inf], False),
        ([1.0, 2.0], [1.0, 2.0], True),
    ],
)
def test_what_is_not_finite_is_compared_too(wanted, found, same):
    difference = rewrite._difference(np.array(wanted, np.float32), np.array(found, np.float32))
    assert (difference == 0) is same and (difference == np.inf) is not same
