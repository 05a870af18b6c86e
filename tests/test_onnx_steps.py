"""Graphs as steps on arrays: what is computed beforehand, left out, handed out, and refused."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import secateur as sc

node, FLOAT = helper.make_node, TensorProto.FLOAT


@pytest.fixture
def compiled(tmp_path):
    """What compiles a graph of these nodes, inputs, outputs and constants."""

    def make(nodes, inputs, outputs, constants=(), opset=18):
        infos = [[helper.make_tensor_value_info(*info) for info in side] for side in (inputs, outputs)]
        tensors = [
            numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()
        ]
        graph = helper.make_graph(nodes, "g", *infos, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        return sc.compile(sc.load(path), batch=1)

    return make


def ones(*shape):
    return np.ones(shape, np.float32)


LSTM = {"w": ones(1, 12, 2), "r": ones(1, 12, 3)}


def test_outputs_without_a_name_are_left_out(compiled):
    layer = node("LSTM", ["x", "w", "r"], ["", "h", ""], "lstm", hidden_size=3)
    plan = compiled([layer], [("x", FLOAT, [2, 1, 2])], [("h", FLOAT, [1, 1, 3])], LSTM)
    wanted = plan(ones(2, 1, 2))
    # The same of constants, computed beforehand.
    layer.input[0] = "c"
    added = node("Add", ["h", "x"], ["y"])
    plan = compiled(
        [layer, added], [("x", FLOAT, [3])], [("y", FLOAT, [1, 1, 3])], {**LSTM, "c": ones(2, 1, 2)}
    )
    assert "1 steps" in repr(plan)
    np.testing.assert_allclose(plan(ones(3)), wanted + 1, rtol=1e-6)


def test_outputs_are_the_callers_own(compiled):
    nodes = [node("Identity", ["x"], ["y"]), node("Identity", ["c"], ["z"])]
    plan = compiled(nodes, [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"]), ("z", FLOAT, [2])], {"c": ones(2)})
    x = ones(3)
    for output in plan(x):
        output[:] = 5
    assert (x == 1).all() and all((output == 1).all() for output in plan(x))


def test_scalars_stay_scalars(compiled):
    total = node("ReduceSum", ["x"], ["s"], keepdims=0)
    plan = compiled(
        [total, node("Add", ["s", "c"], ["y"])], [("x", FLOAT, ["n"])], [("y", FLOAT, [])], {"c": ones()}
    )
    assert plan(ones(3)).shape == () and plan(ones(3)) == 4
    # Those that are computed beforehand too.
    total.input[0] = "b"
    plan = compiled(
        [total, node("Add", ["s", "x"], ["y"])], [("x", FLOAT, [])], [("y", FLOAT, [])], {"b": ones(3)}
    )
    assert plan(1.0).shape == () and plan(1.0) == 4


def test_errors_of_a_run_name_the_node(compiled):
    nodes = [node("Gather", ["c", "x"], ["y"], "lookup")]
    plan = compiled(nodes, [("x", TensorProto.INT64, ["n"])], [("y", FLOAT, ["n", 2])], {"c": ones(3, 2)})
    with pytest.raises(ValueError, match="lookup: Gather index 3 is out of bounds"):
        plan([0, 3])


def test_what_is_newer_than_the_operators_is_refused(compiled, monkeypatch):
    monkeypatch.setattr("secateur.onnx.steps.NEWEST_OPSET", 12)
    ends = [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])]
    assert compiled([node("Softplus", ["x"], ["y"])], *ends, opset=13)(ones(1, 2)).shape == (1, 2)
    with pytest.raises(sc.UnsupportedOpError, match=r"last \(Softmax\): .* from opset 7 to 12"):
        compiled([node("Softmax", ["x"], ["y"], "last")], *ends, opset=13)


def test_sequences_are_refused(tmp_path):
    info = helper.make_tensor_sequence_value_info("x", FLOAT, None)
    graph = helper.make_graph(
        [node("SequenceLength", ["x"], ["y"])], "g", [info],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [])],
    )  # fmt: skip
    path = tmp_path / "sequence.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(sc.UnsupportedOpError, match="x: plans take and give tensors"):
        sc.compile(sc.load(path))
