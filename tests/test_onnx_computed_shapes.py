"""Shapes that graphs compute, against those that ONNX Runtime's arrays have."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc
from secateur.onnx.chains import find_chains
from secateur.onnx.files import infer_shapes


def parsed(body: str, rank: int, opset: int = 18, shape: str = "N,S,24", weights: str = "") -> ir.Model:
    """A model of these nodes, with shapes; of its output the number of axes is said."""
    output = ",".join("?" * rank)
    head = f'<ir_version: 8, opset_import: ["": {opset}]> net (float[{shape}] x) => (float[{output}] y)'
    model = ir.from_onnx_text(f"{head} {weights} {{ {body} }}")
    infer_shapes(model)
    return model


def lengths(value: ir.Value) -> list:
    assert value.shape is not None, value.name
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def agrees(model: ir.Model, sizes: dict[str, int]) -> None:
    """Whether all shapes are those of the arrays, names standing for the same length everywhere."""
    (source,) = model.graph.inputs
    x = np.ones([sizes.get(dim, dim) for dim in lengths(source)], np.float32)
    probe = model.clone()
    probe.graph.outputs[:] = [value for node in probe.graph for value in node.outputs]
    bare = ir.to_proto(probe)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    session = onnxruntime.InferenceSession(bare.SerializeToString(), providers=["CPUExecutionProvider"])
    arrays = session.run(None, {"x": x})
    names = dict(sizes)
    for value, array in zip((v for node in model.graph for v in node.outputs), arrays, strict=True):
        if value.shape is None:
            continue
        assert len(value.shape) == array.ndim, value
        for said, length in zip(lengths(value), array.shape, strict=True):
            if isinstance(said, str):
                said = names.setdefault(said, length)
            assert said in (None, length), value


HEADS = """
    s = Shape(x)
    i0 = Constant<value_int = 0>()  i1 = Constant<value_int = 1>()  i2 = Constant<value_int = 2>()
    n = Gather(s, i0)  l = Gather(s, i1)  d = Gather(s, i2)
    four = Constant<value_int = 4>()  a0 = Constant<value_ints = [0]>()
    h = Div(d, four)  hc = Cast<to = 7>(h)
    n1 = Unsqueeze(n, a0)  l1 = Unsqueeze(l, a0)  h1 = Unsqueeze(hc, a0)  f1 = Unsqueeze(four, a0)
    target = Concat<axis = 0>(n1, l1, f1, h1)
    q = Reshape(x, target)
    t = Transpose<perm = [0, 2, 1, 3]>(q)
    back = Transpose<perm = [0, 2, 1, 3]>(t)
    rest = Constant<value_ints = [-1]>()
    merged = Concat<axis = 0>(n1, l1, rest)
    y = Reshape(back, merged)
"""


def test_an_exporters_attention_has_shapes():
    model = parsed(HEADS, 3)
    by_name = {value.name: lengths(value) for node in model.graph for value in node.outputs}
    assert by_name["q"] == ["N", "S", 4, 6]
    assert by_name["y"] == ["N", "S", 24]
    agrees(model, {"N": 2, "S": 5})


def test_names_reach_what_lies_behind():
    one = "one = Constant<value_ints = [1]>()  s = Shape(x)"
    model = parsed(
        f"{one}  t = Div(s, one)  q = Reshape(x, t)  r = Relu(q)  y = MatMul(r, r)", 3, shape="N,S,S"
    )
    by_name = {value.name: lengths(value) for node in model.graph for value in node.outputs}
    assert by_name["r"] == by_name["y"] == ["N", "S", "S"]
    agrees(model, {"N": 2, "S": 5})


@pytest.mark.parametrize(
    "made",
    [
        # Cut off at the ends in another way than Python's slices are.
        "b = Constant<value_ints = [-100]>()  e = Constant<value_ints = [-9223372036854775808]>() "
        "a = Constant<value_ints = [0]>()  m = Constant<value_ints = [-2]>()  t = Slice(s, b, e, a, m)",
        # More than 64 bits hold.
        "b = Constant<value_ints = [1099511627776]>()  k = Div(b, one)  d = Div(s, one)  m = Mul(k, k) "
        "w = Mul(m, d)  v = Sub(w, w)  t = Add(d, v)",
    ],
)
def test_arithmetic_that_is_not_pythons(made):
    model = parsed(
        f"one = Constant<value_ints = [1]>()  s = Shape(x)  {made}  y = ConstantOfShape(t)", 1, shape="3"
    )
    agrees(model, {})


def test_a_dimension_named_as_a_number_is_no_number():
    model = parsed(
        """
        a0 = Constant<value_ints = [0]>()  s = Shape(x)  i = Gather(s, a0)
        table = Constant<value = int64[2] {7, 5}>()  t = Gather(table, i)  y = ConstantOfShape(t)
        """,
        1,
        shape="1,3",
    )
    model.graph.inputs[0].shape = ir.Shape(["1", 3])
    for node in model.graph:
        for value in node.outputs:
            value.shape = ir.Shape([None]) if value.is_graph_output() else None
    infer_shapes(model, known=False)
    assert lengths(model.graph.outputs[0])[0] != 5


def test_what_lies_behind_is_found_as_a_chain():
    body = HEADS.replace("y = Reshape", "z = Reshape") + "y = MatMul(z, w)"
    weights = f"<float[24,3] w = {{ {', '.join(['1.0'] * 72)} }}>"
    model = parsed(body, 3, weights=weights)
    (chain,) = find_chains(model.graph)
    assert chain.input_shape == (24,)


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("[0, 0, 4, 6]", ["N", "S", 4, 6]),
        ("[0, -1, 24]", ["N", "S", 24]),
        ("[-1, 24]", [None, 24]),
        ("[0, 0, -1]", ["N", "S", 24]),
        ("[0, -1]", ["N", None]),
        ("[0, 0, 2, -1, 3]", ["N", "S", 2, 4, 3]),
    ],
)
def test_targets_that_are_constants(target, wanted):
    model = parsed(f"t = Constant<value_ints = {target}>()  y = Reshape(x, t)", len(wanted))
    said = lengths(model.graph.outputs[0])
    assert [dim if dim in wanted else None for dim in said] == wanted
    agrees(model, {"N": 3, "S": 2})


def test_expand_constant_of_shape_and_old_opsets():
    model = parsed(
        """
        s = Shape(x)  first = Slice<starts = [0], ends = [1]>(s)
        shape = Constant<value = int64[3] {1, 1, 24}>()  c = ConstantOfShape<value = float[1] {2.0}>(shape)
        last = Constant<value = int64[2] {1, 24}>()  e1 = Concat<axis = 0>(first, last)  e = Expand(c, e1)
        sq = Squeeze<axes = [0]>(first)  un = Unsqueeze<axes = [0]>(sq)
        two = Constant<value = int64[1] {2}>()  z = Mul(un, two)  m = Concat<axis = 0>(z, two, two)
        f = ConstantOfShape(m)  y = Identity(e)
        """,
        3,
        opset=9,
    )
    by_name = {value.name: value for node in model.graph for value in node.outputs}
    assert lengths(by_name["c"]) == [1, 1, 24]
    assert lengths(by_name["e"]) == ["N", 1, 24]
    assert lengths(by_name["f"])[1:] == [2, 2]
    agrees(model, {"N": 3, "S": 2})


def test_what_cannot_be_known_stays_open():
    model = parsed(
        """
        n = NonZero(x)  s = Shape(n)  y = ConstantOfShape(s)
        big = ConstantOfShape(s)  odd = Shape(big)  z = Reshape(big, odd)
        """,
        2,
    )
    by_name = {value.name: value for node in model.graph for value in node.outputs}
    assert len(lengths(by_name["y"])) == 2
    agrees(model, {"N": 1, "S": 2})


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.sampled_from(["N", "S", 1, 2, 3, 4]), min_size=1, max_size=4),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    data=st.data(),
)
def test_shapes_are_those_of_the_arrays(shape, sizes, data):
    """Reshapes to the lengths of an array, some multiplied or split, one left to be found, in any order."""
    known = dict(zip("NS", sizes, strict=True))
    order = data.draw(st.permutations(range(len(shape))))
    body = ["s = Shape(x)", "a0 = Constant<value_ints = [0]>()", "two = Constant<value_int = 2>()"]
    parts = []
    for axis in order:
        body.append(f"i{axis} = Constant<value_int = {axis}>()  g{axis} = Gather(s, i{axis})")
        kind = data.draw(st.sampled_from(["as it is", "doubled and halved", "split"]))
        if kind == "split" and shape[axis] in (2, 4):
            body.append(f"h{axis} = Div(g{axis}, two)")
            found = [f"h{axis}", "two"]
        elif kind == "doubled and halved":
            body.append(f"m{axis} = Mul(g{axis}, two)  h{axis} = Div(m{axis}, two)")
            found = [f"h{axis}"]
        else:
            found = [f"g{axis}"]
        for part in found:
            parts.append(f"{part}_{len(parts)}")
            body.append(f"{parts[-1]} = Unsqueeze({part}, a0)")
    if data.draw(st.booleans()):
        body.append("rest = Constant<value_ints = [-1]>()")
        parts[data.draw(st.integers(0, len(parts) - 1))] = "rest"
    body.append(f"target = Concat<axis = 0>({', '.join(parts)})  y = Reshape(x, target)")
    agrees(parsed("\n".join(body), len(parts), shape=",".join(map(str, shape))), known)


def test_loaded_files_have_them(tmp_path):
    model = parsed(HEADS, 3)
    ir.save(model, tmp_path / "m.onnx")
    found = sc.load(tmp_path / "m.onnx")
    assert found.outputs[0].shape == ("N", "S", 24)
