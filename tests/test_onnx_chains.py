"""Chains of ONNX graphs, and plans of whole ones, against ONNX Runtime."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import secateur as sc
from secateur.onnx.chains import find_chains
from secateur.onnx.folding import fold
from secateur.onnx.model import OnnxModel

HEAD = '<ir_version: 9, opset_import: ["": {opset}]>\n'


def weights(*shape, seed=0, density=0.4):
    rng = np.random.default_rng([seed, *shape])
    return (rng.standard_normal(shape) * (rng.random(shape) < density)).astype(np.float32)


def model_of(text, constants=None, opset=20):
    """A model from ONNX's own text, with those constants that it reads."""
    proto = onnx.parser.parse_model(HEAD.format(opset=opset) + text)
    read = {name for node in proto.graph.node for name in node.input}
    for name, array in (constants or {}).items():
        if name not in read:
            continue
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(proto)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    return OnnxModel(fold(model))


def runs(model, feeds):
    session = onnxruntime.InferenceSession(ir.to_proto(model.ir).SerializeToString())
    return session.run(None, feeds)


def check(model, feeds, tolerance=1e-4):
    """The plan's results are ONNX Runtime's; returns the plan."""
    plan = sc.compile(model, batch=(1, 4), threads=1)
    results = plan(feeds)
    for got, wanted in zip(
        results if isinstance(results, list) else [results], runs(model, feeds), strict=True
    ):
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        scale = max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(got, wanted, atol=tolerance * scale)
    return plan


def noise(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def chains_of(model):
    return find_chains(model.ir.graph)


def ops(chain):
    return [node["op"] for node in chain.description]


RESIDUAL = """
net (float[N,3,9,8] x) => (float[N,5] y) {
  a = Conv<pads=[1,1,1,1]>(x, w1, b1)
  r = Relu(a)
  c = Conv<auto_pad="SAME_UPPER", group=6>(r, w2)
  n = BatchNormalization(c, g, b, m, v)
  s = Add(n, r)
  t = HardSwish(s)
  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t)
  q = Conv<strides=[2,2], dilations=[1,2], pads=[0,1,1,2]>(p, w3)
  l = LeakyRelu<alpha=0.2>(q)
  k = Concat<axis=1>(l, l)
  z = GlobalAveragePool(k)
  f = Flatten(z)
  y = Gemm<alpha=0.5, beta=2.0, transB=1>(f, w4, b4)
}
"""
RESIDUAL_CONSTANTS = {
    "w1": weights(6, 3, 3, 3),
    "b1": noise(6),
    "w2": weights(6, 1, 3, 3, density=1),
    "g": noise(6),
    "b": noise(6) + 1,
    "m": noise(6) / 2,
    "v": np.abs(noise(6)) + 0.5,
    "w3": weights(4, 6, 3, 2),
    "w4": weights(5, 8),
    "b4": noise(5),
}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_convolutional_network_is_one_chain(batch):
    model = model_of(RESIDUAL, RESIDUAL_CONSTANTS)
    (chain,) = chains_of(model)
    assert chain.input_shape == (3, 9, 8) and chain.output_shape == (5,) and chain.lead == 1
    assert len(chain.nodes) == len(model.ir.graph)
    plan = check(model, {"x": noise(batch, 3, 9, 8)})
    assert list(plan.plans) == ["y"]


@pytest.mark.parametrize(
    "body",
    [
        "z = Div(h, c) e = Erf(z) o = Add(e, one) p = Mul(h, o) g = Mul(p, half)",
        "a = Mul(h, half) z = Div(h, c) e = Erf(z) o = Add(one, e) g = Mul(a, o)",
        "z = Mul(h, ci) e = Erf(z) o = Add(e, one) q = Mul(half, o) g = Mul(h, q)",
        """t = Mul(h, h) u = Mul(t, h) q = Mul(u, k) s = Add(h, q) w = Mul(wave, s) z = Tanh(w)
           o = Add(one, z) a = Mul(h, half) g = Mul(a, o)""",
        """u = Pow(h, three) q = Mul(k, u) s = Add(h, q) w = Mul(s, wave) z = Tanh(w) o = Add(z, one)
           a = Mul(h, o) g = Mul(a, half)""",
        "t = Add(h, three) u = Clip(t, none, six) q = Div(u, six) g = Mul(h, q)",
        "g = Gelu(h)",
        'g = Gelu<approximate="tanh">(h)',
        "s = Sigmoid(h) g = Mul(h, s)",
        "s = Sigmoid(h) g = Mul(s, h)",
        "s = HardSigmoid<alpha=0.16666667, beta=0.5>(h) g = Mul(h, s)",
        "g = HardSwish(h)",
        "g = Clip(h, low, high)",
        "g = Tanh(h)",
        "a = Sub(one, h) b = Div(a, c) g = Mul(b, per)",
        "g = Softmax<axis=-1>(h)",
        "g = LayerNormalization<axis=-1>(h, per, per)",
        "a, b = Split<axis=-1, num_outputs=2>(h) s = Add(a, b) g = Concat<axis=-1>(s, a, b)",
        "a = Slice(h, starts, ends, axes) g = Concat<axis=2>(a, h)",
    ],
)
def test_what_stands_between_products_joins_them(body):
    rows = 12 if "num_outputs" not in body else 18
    rows = rows if "starts" not in body else 16
    text = f"""
    net (float[B,S,7] x) => (float[B,S,5] y) {{
      m = MatMul(x, w1)
      h = Add(b1, m)
      {body}
      y = MatMul(g, w2)
    }}"""
    constants = {
        "w1": weights(7, 12),
        "b1": noise(12),
        "w2": weights(rows, 5),
        "c": np.float32(np.sqrt(2)),
        "ci": np.float32(np.sqrt(0.5)),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "k": np.float32(0.044715),
        "wave": np.float32(np.sqrt(2 / np.pi)),
        "three": np.float32(3),
        "six": np.float32(6),
        "none": np.float32(0),
        "low": np.float32(-0.3),
        "high": np.float32(0.4),
        "per": noise(12),
        "starts": np.array([2]),
        "ends": np.array([6]),
        "axes": np.array([-1]),
    }
    model = model_of(text, constants)
    (chain,) = chains_of(model)
    assert chain.lead == 2 and len(chain.nodes) == len(model.ir.graph)
    assert not {"e", "t"} & {node["name"] for node in chain.description}  # spelled out, and understood
    check(model, {"x": noise(2, 3, 7)})
    check(model, {"x": noise(1, 1, 7)})


def test_a_gelu_is_one_step():
    text = """
    net (float[B,7] x) => (float[B,7] y) {
      h = MatMul(x, w) z = Div(h, c) e = Erf(z) o = Add(e, one) p = Mul(h, o) y = Mul(p, half)
    }"""
    constants = {
        "w": weights(7, 7),
        "c": np.float32(np.sqrt(2)),
        "one": np.float32(1),
        "half": np.float32(0.5),
    }
    (chain,) = chains_of(model_of(text, constants))
    assert ops(chain) == ["dense", "activation"]


def test_what_is_no_gelu_is_not_taken_for_one():
    text = """
    net (float[B,7] x) => (float[B,7] y) {
      h = MatMul(x, w) z = Div(h, c) e = Erf(z) o = Add(e, two) p = Mul(h, o) y = Mul(p, half)
    }"""
    constants = {"w": weights(7, 7), "c": np.float32(1.3), "two": np.float32(2), "half": np.float32(0.5)}
    check(model_of(text, constants), {"x": noise(3, 7)})


def test_branches_that_others_read_are_chains_of_their_own():
    text = """
    net (float[B,S,6] x) => (float[B,S,S] y, float[B,S,4] v) {
      q = MatMul(x, wq)
      k = MatMul(x, wk)
      t = Transpose<perm=[0,2,1]>(k)
      y = MatMul(q, t)
      v = MatMul(x, wv)
    }"""
    model = model_of(text, {name: weights(6, 4, seed=i) for i, name in enumerate(("wq", "wk", "wv"))})
    assert sorted(chain.name for chain in chains_of(model)) == ["k", "q", "v"]
    check(model, {"x": noise(2, 5, 6)})


def test_a_value_that_is_read_elsewhere_ends_a_chain():
    text = """
    net (float[B,6] x) => (float[B,6] y, float[B,6] h) {
      a = MatMul(x, w)
      h = Relu(a)
      b = MatMul(h, w)
      y = Sigmoid(b)
    }"""
    model = model_of(text, {"w": weights(6, 6)})
    assert [ops(chain) for chain in chains_of(model)] == [["dense", "activation"], ["dense", "activation"]]
    check(model, {"x": noise(4, 6)})


LINES = """
net (float[N,6,20] x) => (float[N,3] y) {
  a = Conv<pads=[1,1], group=2>(x, w1, b1)
  r = Relu(a)
  p = MaxPool<kernel_shape=[2], strides=[2]>(r)
  u = Unsqueeze(p, two)
  c = Conv<strides=[1,2], dilations=[1,2]>(u, w2)
  s = Squeeze(c, two)
  d = Add(s, per)
  g = GlobalMaxPool(d)
  f = Squeeze(g, two)
  y = MatMul(f, w3)
}"""


@pytest.mark.parametrize("batch", [1, 5])
def test_lines_of_pixels_are_images_of_one_row(batch):
    constants = {
        "w1": weights(8, 3, 3),
        "b1": noise(8),
        "w2": weights(5, 8, 1, 3),
        "w3": weights(5, 3),
        "two": np.array([2]),
        "per": noise(5)[:, None],
    }
    model = model_of(LINES, constants)
    (chain,) = chains_of(model)
    assert chain.input_shape == (6, 1, 20) and chain.start.shown == (6, 20)
    check(model, {"x": noise(batch, 6, 20)})


@pytest.mark.parametrize("batch", [1, 5])
def test_images_of_one_column(batch):
    text = """
    net (float[N,6,20,1] x) => (float[N,8,10,1] y) {
      s = Slice(x, starts, ends, axes)
      a = Conv<pads=[1,0,1,0]>(s, w1)
      t = Tanh(a)
      y = AveragePool<kernel_shape=[2,1], strides=[2,1]>(t)
    }"""
    constants = {
        "w1": weights(8, 6, 3, 1),
        "starts": np.array([0, 0]),
        "ends": np.array([2**31 - 1, 20]),
        "axes": np.array([0, 2]),
    }
    model = model_of(text, constants)
    (chain,) = chains_of(model)
    assert chain.output_shape == (8, 10, 1) and len(chain.nodes) == 3
    check(model, {"x": noise(batch, 6, 20, 1)})


LSTM = """
net (float[N,5,4] x) => (float[N,3] y) {{
  t = Transpose<perm=[1,0,2]>(x)
  {states}
  h, last = LSTM<hidden_size=6, direction="{direction}">(t, w, r, b{given})
  {body}
  y = MatMul(z, d)
}}"""


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        "s = Transpose<perm=[1,0,2]>(last) z = Flatten(s)",
        """s = Transpose<perm=[0,2,1,3]>(h) q = Reshape(s, to) p = Transpose<perm=[1,0,2]>(q)
           z = Gather<axis=1>(p, minus)""",
        "i = Gather<axis=0>(last, zero) j = Gather<axis=0>(last, minus) z = Concat<axis=-1>(i, j)",
    ],
)
def test_recurrent_layers(direction, states, body):
    ways = 2 if direction == "bidirectional" else 1
    width = 6 * ways if "Concat" not in body else 12
    zeros = """n = Shape<start=1, end=2>(t) two = Constant<value_ints=[1]>() e = Concat<axis=0>(ways, n, six)
      h0 = ConstantOfShape(e)"""
    text = LSTM.format(
        direction=direction, body=body, states=zeros if states else "", given=", , h0, h0" if states else ""
    )
    constants = {
        "w": weights(ways, 24, 4),
        "r": weights(ways, 24, 6),
        "b": noise(ways, 48),
        "d": weights(width, 3),
        "to": np.array([0, 0, -1]),
        "zero": np.array(0),
        "minus": np.array(-1),
        "ways": np.array([ways]),
        "six": np.array([6]),
    }
    model = model_of(text, constants)
    plan = check(model, {"x": noise(3, 5, 4)})
    assert any(node["op"] == "recurrent" for part in plan.plans.values() for node in part.description)
    # The last step of a layer that runs back is not its last state.
    if "Gather<axis=1>" not in body or direction == "forward":
        assert len(plan.plans) == 1


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_other_cells(kind):
    gates = 3 if kind == "GRU" else 1
    extra = ", linear_before_reset=1" if kind == "GRU" else ""
    text = f"""
    net (float[N,5,4] x) => (float[N,5,6] y) {{
      t = Transpose<perm=[1,0,2]>(x)
      h = {kind}<hidden_size=6{extra}>(t, w, r, b)
      s = Squeeze(h, axis)
      y = Transpose<perm=[1,0,2]>(s)
    }}"""
    constants = {
        "w": weights(1, gates * 6, 4),
        "r": weights(1, gates * 6, 6),
        "b": noise(1, 2 * gates * 6),
        "axis": np.array([1]),
    }
    model = model_of(text, constants)
    (chain,) = chains_of(model)
    assert ops(chain) == ["conv2d", "recurrent"]
    check(model, {"x": noise(3, 5, 4)})


def test_a_plan_of_a_model_is_kept_in_a_file(tmp_path):
    model = model_of(RESIDUAL, RESIDUAL_CONSTANTS)
    plan = sc.compile(model, batch=2)
    sc.save(plan, tmp_path / "plan.safetensors")
    again = sc.load(tmp_path / "plan.safetensors")
    x = noise(2, 3, 9, 8)
    assert (again(x) == plan(x)).all()
    assert again.choices == plan.choices and again.batch == [2]
    assert sc.compile(model, batch=2, choices=plan.choices).choices == plan.choices


def test_a_plan_reports_its_steps():
    plan = sc.compile(model_of(RESIDUAL, RESIDUAL_CONSTANTS), batch=2, threads=1)
    (step,) = plan.report(dense=False, seconds=0.001)
    assert step["op"] == "Plan" and step["us"] > 0
    assert {row["op"] for row in step["steps"]} >= {"Conv2D", "Dense"}
    assert "spmm" in plan.explain() or "dense" in plan.explain()


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.zeros((1, 3, 9, 7)), ValueError, r"x: expected shape \(N, 3, 9, 8\) for x, got \(1, 3, 9, 7\)"),
        (np.zeros((3, 9, 8)), ValueError, r"x: expected shape"),
        ({"z": np.zeros((1, 3, 9, 8))}, ValueError, r"x: it misses 'x'"),
        (np.full((1, 3, 9, 8), "a"), TypeError, r"x: expected real numbers"),
    ],
)
def test_bad_input_is_named(x, error, message):
    plan = sc.compile(model_of(RESIDUAL, RESIDUAL_CONSTANTS), batch=1)
    with pytest.raises(error, match=message):
        plan(x)


def test_unknown_operators_are_named():
    text = "net (float[N,4] x) => (float[N,4] y) { y = Bernoulli(x) }"
    with pytest.raises(sc.UnsupportedOpError, match=r"y: plans cannot run the operator Bernoulli"):
        sc.compile(model_of(text))
    with pytest.raises(ValueError, match=r"model: expected a model or the path of an \.onnx file"):
        sc.compile("model.txt")
