"""What a graph does to constants, done once: fewer nodes, and weights as they act.

Each rule takes a node away, or what it does not need, if it may. Arithmetic is in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .weights import DOMAINS, array_of, attribute, drop_unread, initializer, is_constant, opset_of, put_array

ENDLESS = 10**9
"""What exporters write for the end of an axis."""


def fold(model: ir.Model) -> ir.Model:
    """Simplify the main graph of a model in place.

    Batch normalizations go into the weights of the Conv, Gemm or MatMul before them, where nothing else reads
    these or what they make; Identity, Dropout and a Slice of everything go, Transpose of a constant is made
    one. So that layers may become narrower, a Reshape that flattens all but the first axis becomes a Flatten,
    and Splits into equal parts do not say how wide these are. Recurrent layers are not given states that are
    zeros.

    Parameters
    ----------
    model : onnx_ir.Model
        With shapes, as `read_model` gives it.

    Returns
    -------
    onnx_ir.Model
        The same.
    """
    graph = model.graph
    for node in list(graph):
        rule = RULES.get(node.op_type) if node.domain in DOMAINS else None
        if rule is not None:
            rule(graph, node)
    drop_unread(graph)
    return model


def _drop(graph: ir.Graph, node: ir.Node, replacement: ir.Value) -> None:
    """Take a node out; what read its output reads `replacement`."""
    node.outputs[0].replace_all_uses_with(replacement)
    graph.remove(node, safe=True)


def _pass_through(graph: ir.Graph, node: ir.Node) -> None:
    """Identity and Dropout give on what they get."""
    if node.op_type == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else None
        if training is not None and (not is_constant(training) or array_of(training).any()):
            return
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return
    (source, *_), output = node.inputs, node.outputs[0]
    if source is None:
        return
    if not output.is_graph_output():
        _drop(graph, node, source)


def _constant_transpose(graph: ir.Graph, node: ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    if source is None or not is_constant(source) or output.is_graph_output():
        return
    assert source.const_value is not None
    array = np.ascontiguousarray(np.transpose(array_of(source), attribute(node, "perm", None)))
    tensor = ir.Tensor(array, dtype=source.const_value.dtype, name=output.name)
    turned = initializer(output.name or "", tensor)
    _drop(graph, node, turned)
    graph.register_initializer(turned)


def _flatten(graph: ir.Graph, node: ir.Node) -> None:
    """A Reshape to two axes that keeps the first, however it says so."""
    source = node.inputs[0]
    before, after = (None if value is None else value.shape for value in (source, node.outputs[0]))
    if source is None or before is None or after is None:
        return
    rest = [dim for dim in before[1:] if isinstance(dim, int)]
    width = int(np.prod(rest))
    if len(after) != 2 or len(before) < 2 or len(rest) != len(before) - 1 or not 0 < width == after[1]:
        return
    if isinstance(after[0], int) and after[0] != before[0]:
        return  # it takes batches of one size alone
    flat = ir.node("Flatten", [source], {"axis": 1}, name=node.name)
    output = node.outputs[0]
    flat.outputs[0].shape, flat.outputs[0].type = output.shape, output.type
    graph.insert_before(node, flat)
    _replace(graph, node, flat.outputs[0])


def _equal_split(graph: ir.Graph, node: ir.Node) -> None:
    """A Split into equal parts need not say how wide they are."""
    sizes = attribute(node, "split", None)
    if len(node.inputs) > 1 and is_constant(node.inputs[1]):
        sizes = array_of(node.inputs[1]).tolist()  # type: ignore[arg-type]
    if sizes is None or len(set(sizes)) > 1:
        return
    node.attributes.pop("split", None)
    node.resize_inputs(1)
    if opset_of(graph) >= 18:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let `value`, of another node, be what the output of `node` was, its name included."""
    output = node.outputs[0]
    name = output.name
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    value.name = name


def _batch_norm(graph: ir.Graph, node: ir.Node) -> None:
    """y = scale · (x − mean) / √(var + ε) + bias, where x = weight · input + offset."""
    source = node.inputs[0]
    if source is None or attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1):
        return
    if not all(map(is_constant, node.inputs[1:5])) or any(
        output.uses() or output.is_graph_output() for output in node.outputs[1:]
    ):
        return
    scale, bias, mean, var = (np.asarray(array_of(value), np.float64) for value in node.inputs[1:5] if value)
    chain = _layer_before(node)
    var = var + attribute(node, "epsilon", 1e-5)
    if chain is None or not (var > 0).all():
        return
    factor = scale / np.sqrt(var)
    layer, adder, index = chain
    weight, offset = layer.inputs[1], adder.inputs[index] if len(adder.inputs) > index else None
    assert weight is not None
    axis = 0 if layer.op_type == "Conv" or attribute(layer, "transB", 0) else 1
    array = array_of(weight)
    before = np.zeros(1) if offset is None else np.asarray(array_of(offset), np.float64)
    # One number for all outputs, or one for each along the last axis.
    if array.shape[axis] != factor.size or before.shape[-1:] not in ((), (before.size,)):
        return
    if before.size not in (1, factor.size):
        return
    along = [1] * array.ndim
    along[axis] = -1
    put_array(weight, (np.asarray(array, np.float64) * factor.reshape(along)).astype(array.dtype))
    beta = attribute(adder, "beta", 1.0) if adder.op_type == "Gemm" else 1.0
    total = ((beta * before.reshape(-1) - mean) * factor + bias).astype(array.dtype)
    dtype = weight.const_value.dtype if weight.const_value is not None else ir.DataType.FLOAT
    name = _unused(graph, f"{weight.name}_bias")
    added = initializer(name, ir.Tensor(total, dtype=dtype, name=name))
    graph.register_initializer(added)
    if adder is node:  # MatMul has no bias
        adder = ir.node("Add", [source, added], name=node.name)
        adder.outputs[0].shape, adder.outputs[0].type = source.shape, source.type
        graph.insert_before(node, adder)
    else:
        adder.resize_inputs(max(len(adder.inputs), index + 1))
        adder.replace_input_with(index, added)
        if adder.op_type == "Gemm":
            adder.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    _replace(graph, node, adder.outputs[0])


def _layer_before(norm: ir.Node) -> tuple[ir.Node, ir.Node, int] | None:
    """The layer into which a normalization can go, and which input of which node is its bias.

    The latter is the layer, an Add between the two, or the normalization itself where there is neither. None
    if anything else reads the weights or what is between, or if what is normalized are not the outputs.
    """
    source = norm.inputs[0]
    adder = None if source is None else source.producer()
    if adder is None or adder.domain not in DOMAINS or not _only_read_by(source, norm):
        return None
    index, layer = 2, adder
    if adder.op_type == "Add":
        constant = [is_constant(value) for value in adder.inputs]
        if sum(constant) != 1:
            return None
        index = constant.index(True)
        source = adder.inputs[1 - index]
        product = None if source is None else source.producer()
        if product is None or product.op_type != "MatMul" or not _only_read_by(source, adder):
            return None
        layer = product
    elif adder.op_type == "MatMul":
        adder, index = norm, 5
    elif adder.op_type not in ("Conv", "Gemm"):
        return None
    weight = layer.inputs[1]
    if weight is None or not is_constant(weight) or len(weight.uses()) != 1:
        return None
    if layer.op_type != "Conv" and (source is None or source.shape is None or len(source.shape) != 2):
        return None
    offset = adder.inputs[index] if len(adder.inputs) > index else None
    return (layer, adder, index) if offset is None or is_constant(offset) else None


def _only_read_by(value: ir.Value | None, node: ir.Node) -> bool:
    return value is not None and not value.is_graph_output() and [use.node for use in value.uses()] == [node]


def _unused(graph: ir.Graph, name: str) -> str:
    taken = {*graph.initializers, *(value.name for value in graph.inputs)}
    taken |= {output.name for node in graph for output in node.outputs}
    while name in taken:
        name += "_"
    return name


def _whole_slice(graph: ir.Graph, node: ir.Node) -> None:
    """A Slice that leaves nothing out."""
    source, *given = node.inputs
    if source is None or source.shape is None or len(given) < 2 or node.outputs[0].is_graph_output():
        return
    if any(value is not None and not is_constant(value) for value in given):
        return
    arrays = [None if value is None else array_of(value).tolist() for value in given]
    starts, ends, axes, steps = (*arrays, None, None)[:4]
    if starts is None or ends is None or any(starts) or any(step != 1 for step in steps or ()):
        return
    lengths = [source.shape[axis] for axis in axes or range(len(starts))]
    if all(end >= (n if isinstance(n, int) else ENDLESS) for end, n in zip(ends, lengths, strict=True)):
        _drop(graph, node, source)


def _first_states(graph: ir.Graph, node: ir.Node) -> None:
    """States of a recurrent layer that begin as zeros need not be given."""
    for index in range(5, min(len(node.inputs), 7)):
        value = node.inputs[index]
        if value is not None and _is_zero(value):
            node.replace_input_with(index, None)


def _is_zero(value: ir.Value) -> bool:
    """Whether a value is zeros, of a shape that may depend on the batch: a first state."""
    while not is_constant(value):
        node = value.producer()
        if node is not None and node.op_type == "ConstantOfShape":
            filled = attribute(node, "value", None)
            return filled is None or not filled.numpy().any()
        if node is None or node.op_type != "Expand" or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return not array_of(value).any()


RULES: dict[str, Callable[[ir.Graph, ir.Node], None]] = {
    "BatchNormalization": _batch_norm,
    "Dropout": _pass_through,
    "GRU": _first_states,
    "Identity": _pass_through,
    "LSTM": _first_states,
    "RNN": _first_states,
    "Reshape": _flatten,
    "Slice": _whole_slice,
    "Split": _equal_split,
    "Transpose": _constant_transpose,
}
"""What simplifies a node of each type."""
