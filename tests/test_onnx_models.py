"""ONNX models seen by the pruning loops: which weights, and what pruning makes of them."""

import json

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import secateur as sc
from secateur.models.view import view
from secateur.onnx.files import infer_shapes
from secateur.onnx.folding import fold
from secateur.onnx.session import noise, runner

rng = np.random.default_rng(0)
node = helper.make_node


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def build(nodes, arrays, input_shape, output_shape, opset=18, dtype=TensorProto.FLOAT) -> sc.OnnxModel:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, input_shape)],
        [helper.make_tensor_value_info("y", dtype, output_shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = ir.from_proto(proto)
    infer_shapes(model)
    return sc.OnnxModel(fold(model))


def run(model: sc.OnnxModel, x) -> np.ndarray:
    data = ir.to_proto(model.ir).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def perceptron() -> sc.OnnxModel:
    return build(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Add", ["a", "b1"], ["b"]),
            node("Relu", ["b"], ["c"]),
            node("Gemm", ["c", "w2", "b2"], ["y"], transB=1),
        ],
        {"w1": normal(8, 32), "b1": normal(32), "w2": normal(4, 32), "b2": normal(4)},
        ("N", 8),
        ("N", 4),
    )


def recurrent(op="LSTM", directions=1) -> sc.OnnxModel:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    arrays = {
        "w": normal(directions, gates * 6, 5),
        "r": normal(directions, gates * 6, 6),
        "b": normal(directions, 2 * gates * 6),
        "v": normal(6 * directions, 3),
        "shape": np.array([0, 0, -1]),
    }
    way = "bidirectional" if directions == 2 else "forward"
    nodes = [
        node(op, ["x", "w", "r", "b"], ["a"], "layer", hidden_size=6, direction=way),
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "shape"], ["u"]),
        node("MatMul", ["u", "v"], ["y"]),
    ]
    return build(nodes, arrays, (7, "N", 5), (7, "N", 3))


def test_tensors_have_outputs_first():
    tensors = view(perceptron()).parameters()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"w1": (32, 8), "w2": (4, 32)}
    shapes = {name: tensor.shape for name, tensor in view(recurrent(directions=2)).parameters().items()}
    assert shapes == {
        "w.forward": (24, 5),
        "w.reverse": (24, 5),
        "r.forward": (24, 6),
        "r.reverse": (24, 6),
        "v": (3, 12),
    }
    assert list(view(recurrent("GRU")).parameters()) == ["w", "r", "v"]


def test_what_is_prunable():
    nodes = [
        node("Conv", ["x", "full"], ["a"]),
        node("Conv", ["a", "grouped"], ["b"], group=2),
        node("Conv", ["b", "separate"], ["c"], group=4),
        node("Conv", ["c", "full2"], ["d"]),
        node("Add", ["d", "plane"], ["y"]),
    ]
    arrays = {"full": normal(4, 4, 1), "grouped": normal(4, 2, 1), "separate": normal(4, 1, 1)}
    model = build(
        nodes, {**arrays, "full2": normal(4, 4, 1), "plane": normal(4, 9)}, ("N", 4, 9), ("N", 4, 9)
    )
    assert list(view(model).parameters()) == ["full", "grouped", "full2"]
    nothing = build([node("Relu", ["x"], ["y"])], {}, ("N", 4), ("N", 4))
    with pytest.raises(ValueError, match="no weights to prune"):
        sc.prune(nothing, 0.5)


def test_tied_weights_are_pruned_once():
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w"], ["y"])]
    result = sc.prune(build(nodes, {"w": normal(6, 6)}, ("N", 6), ("N", 6)), 0.5)
    assert list(result.masks) == ["w"] and result.history[-1]["macs"] == 72
    # Read turned by one and straight by the other, or by something that is no layer: left alone.
    nodes[2] = node("Gemm", ["b", "w"], ["y"], transB=1)
    with pytest.raises(ValueError, match="no weights to prune"):
        view(build(nodes, {"w": normal(6, 6)}, ("N", 6), ("N", 6)))


@pytest.mark.parametrize("granularity", ["weight", "4x1", "2:4"])
@pytest.mark.parametrize("make", [perceptron, recurrent, lambda: recurrent("GRU", 2)])
def test_pruned_models_compute_what_their_masks_say(make, granularity):
    model = make()
    arrays = {name: value.const_value.numpy().copy() for name, value in model.ir.graph.initializers.items()}
    result = sc.prune(model, 0.5, granularity=granularity)
    assert result.sparsity == pytest.approx(0.5, abs=0.15)
    for name, tensor in view(result.model).parameters().items():
        np.testing.assert_array_equal(tensor != 0, result.masks[name])
        before = view(model).parameters()[name]
        np.testing.assert_array_equal(tensor, np.where(result.masks[name], before, 0))
    for name, value in model.ir.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), arrays[name])
    assert view(result.model).masks().keys() == result.masks.keys()


@pytest.mark.parametrize("dtype", [ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_other_types_keep_theirs(dtype):
    model = perceptron()
    for value in model.ir.graph.initializers.values():
        value.const_value = ir.Tensor(value.const_value.numpy().astype(dtype.numpy()), name=value.name)
        value.dtype = dtype
    for value in (*model.ir.graph.inputs, *(output for n in model.ir.graph for output in n.outputs)):
        value.dtype = dtype
    before = view(model).array("w1").copy()
    result = sc.prune(model, 0.5)
    after = view(result.model).array("w1")
    assert after.dtype == dtype.numpy()
    np.testing.assert_array_equal(after, np.where(result.masks["w1"], before, 0))
    smaller = sc.prune(model, 0.5, granularity="neuron", round_to=None).model
    left = view(smaller).array("w1")
    assert left.dtype == dtype.numpy() and len(left) < 32
    assert all(any((row == old).all() for old in before) for row in left)


def test_in_place_and_back():
    model = perceptron()
    copy = model.copy()
    result = sc.prune(model, 0.5, inplace=True)
    assert result.model is model and np.mean(view(model).parameters()["w1"] == 0) > 0.3
    assert np.all(view(copy).parameters()["w1"] != 0)


def test_files_are_read_and_left_alone(tmp_path):
    path = tmp_path / "m.onnx"
    sc.save(perceptron(), path)
    before = path.read_bytes()
    result = sc.prune(path, 0.5)
    assert sc.prune(str(path), 0.5).masks.keys() == result.masks.keys()
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="inplace"):
        sc.prune(path, 0.5, inplace=True)


def test_training_is_refused():
    model, x, y = perceptron(), normal(20, 8), np.zeros(20, int)
    with pytest.raises(sc.UnsupportedOpError, match="data"):
        sc.prune(model, 0.5, criterion="taylor", data=(x, y))
    with pytest.raises(sc.UnsupportedOpError, match="finetune"):
        sc.prune(model, 0.5, finetune={"x": x, "y": y})


def test_fine_tuning_elsewhere():
    """A callable may put other weights in, or another graph."""

    def trained(model):
        model.ir = model.ir.clone()
        for name in ("w1", "w2"):
            weight = model.ir.graph.initializers[name]
            weight.const_value = ir.tensor(weight.const_value.numpy() + 1, name=name)

    model = perceptron()
    result = sc.prune(model, 0.5, finetune=trained)
    for name, tensor in view(result.model).parameters().items():
        before = view(model).parameters()[name]
        np.testing.assert_array_equal(tensor, np.where(result.masks[name], before + 1, 0))


def test_validation_and_summary():
    model, x = perceptron(), normal(50, 8)
    y = run(model, x).argmax(axis=1)
    result = sc.prune(model, 0.9, schedule="linear", validate=(x, y))
    scores = [record["score"] for record in result.history]
    assert scores[0] == 1.0 > scores[-1]
    assert result.history[0]["latency_1"] > 0 and "latency at batch 32" in result.summary()
    assert view(model).score((x, run(model, x))) == 0.0
    with pytest.raises(ValueError, match="validate"):
        view(model).score((x, normal(50, 3)))


# Neurons


def check_neurons(model: sc.OnnxModel, x, sparsity=0.4, **options) -> sc.OnnxModel:
    """Shrink, and compare with the whole model under the masks that say the same."""
    result = sc.prune(model, sparsity, granularity="neuron", round_to=None, **options)
    total = sum(tensor.size for tensor in view(model).parameters().values())
    left = sum(tensor.size for tensor in view(result.model).parameters().values())
    assert left == sum(int(mask.sum()) for mask in result.masks.values()) < total
    assert result.history[-1]["sparsity"] == pytest.approx(1 - left / total)
    masked = model.copy()
    view(masked).set_masks(result.masks)
    np.testing.assert_allclose(run(result.model, x), run(masked, x), rtol=1e-4, atol=1e-4)
    again = result.model.copy()
    infer_shapes(again.ir, known=False)
    for one, other in zip(result.model.ir.graph, again.ir.graph, strict=True):
        assert [value.shape for value in one.outputs] == [value.shape for value in other.outputs]
    return result.model


def test_neurons_of_a_perceptron():
    smaller = check_neurons(perceptron(), normal(5, 8))
    assert len(view(smaller).array("b1")) == len(view(smaller).array("w1")) < 32


def convolutions(middle, arrays, channels=8) -> sc.OnnxModel:
    """A convolution makes "a", the middle makes "b" of it with `channels`, which the rest reads."""
    nodes = [
        node("Conv", ["x", "first", "bias"], ["a"], "first", pads=[1] * 4),
        *middle,
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["d"]),
        node("Gemm", ["d", "last"], ["y"], "last", transB=1),
    ]
    arrays = {"first": normal(8, 3, 3, 3), "bias": normal(8), "last": normal(4, channels), **arrays}
    return build(nodes, arrays, ("N", 3, 8, 8), ("N", 4))


def conv(source, weight, target, **attributes):
    return node("Conv", [source, weight], [target], weight, **attributes)


MIDDLES = {
    "residual": (
        [
            conv("a", "w", "e"),
            node("Relu", ["e"], ["f"]),
            conv("f", "w2", "g"),
            node("Add", ["a", "g"], ["b"]),
        ],
        {"w": normal(6, 8, 1, 1), "w2": normal(8, 6, 1, 1)},
        8,
    ),
    "concatenation": (
        [conv("a", "w", "e"), node("Concat", ["a", "e", "a"], ["b"], axis=1)],
        {"w": normal(6, 8, 1, 1)},
        22,
    ),
    "split": (
        [
            node("Split", ["a"], ["e", "f"], axis=1, num_outputs=2),
            conv("e", "w", "g"),
            node("Mul", ["g", "f"], ["b"]),
        ],
        {"w": normal(4, 4, 1, 1)},
        4,
    ),
    "explicit split": (
        [node("Split", ["a", "s"], ["e", "f"], axis=1), node("Add", ["e", "f"], ["b"])],
        {"s": np.array([4, 4])},
        4,
    ),
    "depthwise": (
        [
            node("BatchNormalization", ["a", "s", "t", "m", "v"], ["n"]),
            node("Relu", ["n"], ["o"]),
            node("Conv", ["o", "dw", "db"], ["e"], group=8),
            node("BatchNormalization", ["e", "s2", "t2", "m2", "v2"], ["f"]),
            node("HardSwish", ["f"], ["b"]),
        ],
        {
            "s": normal(8),
            "t": normal(8),
            "m": normal(8),
            "v": rng.random(8, np.float32) + 1,
            "s2": normal(16),
            "t2": normal(16),
            "m2": normal(16),
            "v2": rng.random(16, np.float32) + 1,
            "dw": normal(16, 1, 3, 3),
            "db": normal(16),
        },
        16,
    ),
    "squeeze and excitation": (
        [
            node("GlobalAveragePool", ["a"], ["e"]),
            conv("e", "w", "f"),
            node("Relu", ["f"], ["g"]),
            conv("g", "w2", "h"),
            node("Sigmoid", ["h"], ["i"]),
            node("Mul", ["a", "i"], ["b"]),
        ],
        {"w": normal(3, 8, 1, 1), "w2": normal(8, 3, 1, 1)},
        8,
    ),
    "resized and moved": (
        [
            node("Resize", ["a", "", "scales"], ["e"]),
            node("Transpose", ["e"], ["f"], perm=[0, 2, 3, 1]),
            node("Mul", ["f", "v"], ["g"]),
            node("Pad", ["g", "pads"], ["h"]),
            node("Transpose", ["h"], ["i"], perm=[0, 3, 1, 2]),
            node("PRelu", ["i", "slope"], ["j"]),
            node("Clip", ["j"], ["b"]),
        ],
        {
            "scales": np.array([1, 1, 2, 2], np.float32),
            "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0]),
            "v": normal(8),
            "slope": normal(8, 1, 1),
        },
        8,
    ),
    "reduced": (
        [
            node("ReduceMean", ["a", "axes"], ["e"], keepdims=0),
            node("Unsqueeze", ["e", "back"], ["f"]),
            node("Unsqueeze", ["f", "back"], ["g"]),
            node("Squeeze", ["g", "back"], ["h"]),
            node("Unsqueeze", ["h", "back"], ["b"]),
        ],
        {"axes": np.array([2, 3]), "back": np.array([2])},
        8,
    ),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_neurons_through(name):
    middle, arrays, channels = MIDDLES[name]
    smaller = check_neurons(convolutions(middle, arrays, channels), normal(2, 3, 8, 8))
    assert len(view(smaller).array("first")) < 8


def test_neurons_of_flattened_images():
    nodes = [
        node("Conv", ["x", "w"], ["a"], "w"),
        node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["b", "shape"], ["c"]),
        node("Gemm", ["c", "v", "bias"], ["d"], "v"),
        node("Relu", ["d"], ["e"]),
        node("MatMul", ["e", "u"], ["y"], "u"),
    ]
    arrays = {
        "w": normal(8, 1, 3, 3),
        "v": normal(72, 10),
        "bias": normal(10),
        "u": normal(10, 3),
        "shape": np.array([-1, 72]),
    }
    smaller = check_neurons(build(nodes, arrays, ("N", 1, 8, 8), ("N", 3)), normal(2, 1, 8, 8), 0.6)
    assert view(smaller).array("v").shape[1] == 9 * len(view(smaller).array("w"))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_units_of_recurrent_layers(op, directions):
    smaller = check_neurons(recurrent(op, directions), normal(7, 4, 5))
    (layer,) = (n for n in smaller.ir.graph if n.op_type == op)
    assert layer.attributes["hidden_size"].value == view(smaller).array("r").shape[-1] < 6


def test_concatenations_are_counted_exactly():
    middle, arrays, channels = MIDDLES["concatenation"]
    model = convolutions(middle, arrays, channels)
    for sparsity in (0.2, 0.5, 0.7):
        result = sc.prune(model, sparsity, granularity="neuron", round_to=None)
        assert result.history[-1]["sparsity"] == pytest.approx(sparsity, abs=0.1)


def test_layers_that_cannot_be_followed_stay_whole():
    mixed = [
        node("LayerNormalization", ["a", "s"], ["e"], "norm", axis=1),
        conv("e", "w", "f"),
        node("Relu", ["f"], ["b"]),
    ]
    model = convolutions(mixed, {"s": normal(8, 8, 8), "w": normal(8, 8, 1, 1)})
    smaller = check_neurons(model, normal(2, 3, 8, 8), 0.2)
    assert view(smaller).array("first").shape == (8, 3, 3, 3) and len(view(smaller).array("w")) < 8


def test_models_without_such_neurons_say_why():
    hidden = [node("LayerNormalization", ["a", "s"], ["b"], "norm", axis=1)]
    model = convolutions(hidden, {"s": normal(8, 8, 8)})
    with pytest.raises(sc.UnsupportedOpError, match=r"first.*norm \(LayerNormalization\)"):
        sc.prune(model, 0.5, granularity="neuron")


def test_dead_neurons_go():
    model = perceptron()
    mask = np.ones((4, 32), bool)
    mask[:, [3, 5, 8]] = False
    view(model).set_masks({"w2": mask})
    smaller = sc.remove_dead_neurons(model)
    x = normal(5, 8)
    assert len(view(smaller).array("w1")) == 29
    np.testing.assert_allclose(run(smaller, x), run(model, x), rtol=1e-5, atol=1e-5)


def test_arrays_that_do_not_fit_change_nothing():
    model = perceptron()
    with pytest.raises(ValueError, match="arrays"):
        view(model).replace({"w1": normal(30, 8)})
    assert view(model).array("w1").shape == (32, 8)


def test_masks_are_kept_in_files(tmp_path):
    result = sc.prune(recurrent("LSTM", 2), 0.75)
    sc.save(result.model, tmp_path / "m.onnx")
    again = sc.load(tmp_path / "m.onnx")
    assert again.masks.keys() == result.masks.keys()
    for name, mask in result.masks.items():
        np.testing.assert_array_equal(again.masks[name], mask)
    assert 0 < json.loads(again.ir.metadata_props["secateur.pruned"])["w.forward"] < 1
    assert "secateur.version" in again.ir.metadata_props
    further = sc.prune(again, 0.9)
    assert all((mask <= result.masks[name]).all() for name, mask in further.masks.items())
    again.ir.metadata_props["secateur.pruned"] = "[nonsense"
    sc.load(save(again, tmp_path / "n.onnx"))
    whole = perceptron()
    assert "secateur.pruned" not in sc.load(save(whole, tmp_path / "w.onnx")).ir.metadata_props


def save(model, path):
    sc.save(model, path)
    return path


def test_neurons_in_place():
    model = convolutions(*MIDDLES["residual"])
    copy = model.copy()
    result = sc.prune(model, 0.4, granularity="neuron", round_to=2, inplace=True)
    assert result.model is model and len(view(model).array("first")) < len(view(copy).array("first"))
    other = sc.prune(copy, 0.4, granularity="neuron", round_to=2).model
    x = normal(2, 3, 8, 8)
    np.testing.assert_array_equal(run(model, x), run(other, x))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_any_number_of_samples_runs_on_a_model_of_one_batch_size(count):
    model = build([node("MatMul", ["x", "w"], ["y"])], {"w": normal(3, 2)}, (4, 3), (4, 2))
    x = normal(count, 3)
    (found,) = runner(model)(x)
    weights = model.ir.graph.initializers["w"].const_value.numpy()
    assert found.shape == (count, 2)
    np.testing.assert_allclose(found, x @ weights, rtol=1e-5, atol=1e-6)
    labels = (x @ weights).argmax(1)
    assert view(model).score((x, labels)) == 1
    assert sum(len(part) for part in view(model).outputs([x])) == count


def test_inputs_of_a_model_of_one_batch_size_are_checked():
    graph = helper.make_graph(
        [node("Mul", ["x", "s"], ["a"]), node("MatMul", ["a", "w"], ["b"]), node("Add", ["b", "z"], ["y"])],
        "net",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", (4, 3)), ("s", ()), ("z", (4, 2)))
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (4, 2))],
        [numpy_helper.from_array(normal(3, 2), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = sc.OnnxModel(ir.from_proto(proto))
    run = runner(model)
    given = {"x": normal(6, 3), "s": np.float32(2), "z": normal(6, 2)}
    assert run(given)[0].shape == (6, 2) and run(noise(model, 4))[0].shape == (4, 2)
    for name, array, message in (
        ("z", normal(3, 2), r"x: expected as many samples for each input, and one at least, got \[3, 6\]"),
        ("x", normal(6, 5), r"x: expected shape \(n, 3\) for x, got \(6, 5\)"),
        ("x", np.float32(1), r"x: expected shape \(n, 3\) for x, got \(\)"),
        ("x", [[1.0], [1.0, 2.0]], "for x"),
    ):
        with pytest.raises(ValueError, match=message):
            run({**given, name: array})
    with pytest.raises(ValueError, match="one at least"):
        run({"x": normal(0, 3), "s": np.float32(2), "z": normal(0, 2)})
