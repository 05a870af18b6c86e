"""ONNX files to models and back.

Files come from anywhere: what one claims is checked against the bytes that there are (tensors.py), then by
ONNX's own checker and shape inference, on a *skeleton*: the graph with its large weights as inputs, so that
neither needs them, however many gigabytes they are.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import TensorProto

from ..errors import FormatError, SecateurError, UnsupportedOpError
from ..storage import open_atomic, write_atomic
from .computed_shapes import complete_shapes
from .tensors import Folder, check_tensor, densify, from_bytes, node_tensors, sparsify
from .weights import DOMAINS, initializer

OLDEST_OPSET = 7
"""From this version on Add, Mul and Gemm broadcast as NumPy does; older models are converted to it."""
OLDEST_IR = 3
CONSTANT_INPUTS_IR = 4
"""Before this version every initializer had to be listed among the inputs."""
LARGEST_FILE = 2**31 - 1
"""Bytes that protobuf can read."""
MOST_INLINE = 2_000_000_000
"""Bytes of weights in the file of a model; those of larger models go to a file of their own."""
LARGE = 1 << 10
"""Bytes from which a weight is an input of a skeleton, and goes to a file of its own with the others."""
MOST_NUMBERS = 1 << 20
"""Numbers in a list that is followed to find shapes."""
ALIGNMENT = 64


def read_model(path: str | os.PathLike[str]) -> ir.Model:
    """Read and check the model in an ONNX file.

    Constant nodes of the main graph become initializers, sparse initializers dense ones; shapes are inferred.
    External data are mapped into memory, not copied, and taken only from regular files within the folder of
    the model that have no other link. Nested graphs stay as they are.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    onnx_ir.Model

    Raises
    ------
    FormatError
        In one line, if the file is truncated, damaged, or contradicts itself: tensors of an unknown type or
        with other data than their shape needs, missing weights, shapes that do not fit, external data
        that are refused.
    UnsupportedOpError
        If its opset is newer than the installed onnx, or so old that a node of it cannot be converted.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{path}: not a regular file")
    if status.st_size > LARGEST_FILE:
        raise FormatError(
            f"{path}: larger than the 2 GB of an ONNX file; its weights belong into another one"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        raise FormatError(f"{path}: no ONNX file, or a damaged one") from None
    _check_versions(path, proto)
    try:
        if _opset(proto) < OLDEST_OPSET:
            _check_convertible(path, proto)
            proto = onnx.version_converter.convert_version(proto, OLDEST_OPSET)
        model = _deserialize(proto, Folder(Path(os.path.realpath(path)).parent), status.st_size)
        infer_shapes(model)
    except SecateurError:
        raise
    except Exception as error:  # a damaged graph can make the libraries raise anything
        raise FormatError(f"{path}: {one_line(error)}") from None
    _lift_constants(model.graph)
    return model


def _check_versions(path: Path, proto: onnx.ModelProto) -> None:
    if not proto.HasField("graph") or not proto.opset_import or not proto.ir_version:
        raise FormatError(f"{path}: no ONNX file: it has no graph, no opset or no version")
    if not OLDEST_IR <= proto.ir_version <= onnx.IR_VERSION:
        raise FormatError(
            f"{path}: version {proto.ir_version} of the format; known are {OLDEST_IR} to {onnx.IR_VERSION}"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in DOMAINS and not 1 <= opset.version <= newest:
            raise UnsupportedOpError(
                f"{path}: opset {opset.version}; the newest that the installed onnx knows is {newest}"
            )


def _opset(proto: onnx.ModelProto) -> int:
    return min(
        (opset.version for opset in proto.opset_import if opset.domain in DOMAINS), default=OLDEST_OPSET
    )


def _check_convertible(path: Path, proto: onnx.ModelProto) -> None:
    """onnx's converter leaves slopes of channels as they are, which then would be those of the last axis."""
    numbers = {tensor.name for tensor in proto.graph.initializer if math.prod(tensor.dims) == 1}
    for node in proto.graph.node:
        if node.op_type == "PRelu" and node.input[1] not in numbers:
            name = node.name or node.output[0]
            raise UnsupportedOpError(
                f"{path}: {name} (PRelu): of opset {_opset(proto)} with slopes of channels"
            )


def _deserialize(proto: onnx.ModelProto, folder: Folder, size: int) -> ir.Model:
    graph = proto.graph
    densify(graph, size)
    for function in proto.functions:
        for tensor in node_tensors(function.node):
            _check_inline(tensor, folder)
    for tensor in node_tensors(graph.node):
        _check_inline(tensor, folder)
    mapped = {}
    if len({tensor.name for tensor in graph.initializer}) < len(graph.initializer):
        raise ValueError("two initializers have the same name")
    for tensor in graph.initializer:
        check_tensor(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            mapped[tensor.name] = from_bytes(tensor, folder.bytes_of(tensor))
    model = ir.serde.deserialize_model(proto)
    for name, value in model.graph.initializers.items():
        if name in mapped:
            value.const_value = mapped[name]
        elif value.dtype is not None and value.dtype.is_floating_point() and value.dtype.bitwidth % 8 == 0:
            # Once, where it is not raw: it will be read again and again.
            assert value.const_value is not None
            value.const_value = ir.Tensor(value.const_value.numpy(), dtype=value.dtype, name=name)
    if model.ir_version < CONSTANT_INPUTS_IR:
        given = [value for value in model.graph.inputs if not value.is_initializer()]
        model.graph.inputs.clear()
        model.graph.inputs.extend(given)
        model.ir_version = CONSTANT_INPUTS_IR
    return model


def _check_inline(tensor: TensorProto, folder: Folder) -> None:
    """Check a tensor that is no weight of the main graph, and take in external data."""
    check_tensor(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor.raw_data = bytes(folder.bytes_of(tensor))
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _check_sources(graph: ir.Graph) -> None:
    """Raises ValueError, naming a node, if that reads what nothing before it makes."""
    known = {*graph.inputs, *graph.initializers.values()}
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                raise ValueError(
                    f"node {node.name!r} ({node.op_type}) reads {value.name!r}, which is not there"
                )
        known.update(node.outputs)


def one_line(error: Exception) -> str:
    """What an error of the libraries says, in one line."""
    # Only the innermost error of a chain says what is wrong with the file.
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = re.sub(r"\s+", " ", str(error)).strip()
    return text[:400] or type(error).__name__


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model without its large weights, which are inputs instead."""
    _check_sources(model.graph)
    bare = model.clone()
    graph = bare.graph
    inputs = set(graph.inputs)
    for name, value in list(graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes >= LARGE:
            del graph.initializers[name]
            if value not in inputs:
                graph.inputs.append(value)
    # From this version on, weights need not be inputs, and inputs not be weights.
    bare.ir_version = max(bare.ir_version or 0, CONSTANT_INPUTS_IR)
    return ir.serde.serialize_model(bare)


def infer_shapes(model: ir.Model, known: bool = True) -> None:
    """Check a model, and put the shapes of all values of its main graph in, those that it computes included.

    Parameters
    ----------
    model : onnx_ir.Model
    known : bool
        Whether the shapes that it has are right. They are kept then where none can be inferred.

    Raises
    ------
    onnx.checker.ValidationError, onnx.shape_inference.InferenceError
        If the graph contradicts itself.
    """
    proto = skeleton(model)
    if not known:
        proto.graph.ClearField("value_info")
    onnx.checker.check_model(proto)
    inferred = _inferred(proto)
    found = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in model.graph:
        for value in node.outputs:
            if value.name in found:
                ir.serde.deserialize_value_info_proto(found[value.name], value)
            elif not known:
                value.shape = None
    complete_shapes(model)


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the shapes that follow from its inputs', and from what it computes of shapes.

    For the latter onnx follows every list of numbers, entry by entry, known or not: 10 million take seconds
    and a gigabyte. So not where any is that long.
    """
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    graph = inferred.graph
    shapes = [info.type.tensor_type.shape.dim for info in (*graph.input, *graph.value_info, *graph.output)]
    if any(len(dims) == 1 and dims[0].dim_value > MOST_NUMBERS for dims in shapes):
        return inferred
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def _lift_constants(graph: ir.Graph) -> None:
    """Make initializers of the Constant nodes of the main graph."""
    for node in list(graph):
        if node.op_type != "Constant" or node.domain not in DOMAINS or node.outputs[0].is_graph_output():
            continue
        value = node.outputs[0]
        tensor = _constant(node)
        if tensor is None:
            continue
        lifted = initializer(value.name or "", tensor)
        value.replace_all_uses_with(lifted)
        graph.remove(node, safe=True)
        graph.register_initializer(lifted)


def _constant(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node; None if it holds text or is sparse."""
    (attribute,) = node.attributes.values()
    name, value = node.outputs[0].name, attribute.value
    types = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if attribute.name in types:
        return ir.Tensor(np.array(value, types[attribute.name]), name=name)
    if attribute.name != "value" or value.dtype == ir.DataType.STRING:
        return None
    return ir.Tensor(value.numpy(), dtype=value.dtype, name=name)


def write_model(model: ir.Model, path: str | os.PathLike[str], sparse: Collection[str] = ()) -> None:
    """Check a model and write it to an ONNX file: after a crash the old file or the new one is there.

    Equal models make equal bytes. Weights of more than 2 GB go to a second file beside it, named after it and
    their digest, ``NAME.DIGEST.data``: it is written first, under a name that nothing refers to yet, and the
    one of the model that was there before is removed last.

    Parameters
    ----------
    model : onnx_ir.Model
    path : path-like
    sparse : collection of str
        Initializers of which only the nonzeros are stored, where that takes fewer bytes.

    Raises
    ------
    FormatError
        In one line, if the model contradicts itself; nothing is written then.
    OSError
        If it cannot be written; nothing is left behind.
    """
    path = Path(os.path.realpath(path))
    try:
        infer_shapes(model.clone())
    except Exception as error:  # as in `read_model`
        raise FormatError(f"{path}: not written: {one_line(error)}") from None
    weights = [
        name
        for name, value in model.graph.initializers.items()
        if _size(value) >= LARGE and name not in sparse
    ]
    data = None
    if sum(_size(model.graph.initializers[name]) for name in weights) > MOST_INLINE:
        model = model.clone()
        data = _write_weights([model.graph.initializers[name] for name in weights], path)
    proto = ir.serde.serialize_model(model)
    sparsify(proto.graph, sparse)
    write_atomic(path, proto.SerializeToString(deterministic=True))
    for stale in _data_files(path):
        if stale != data:
            stale.unlink(missing_ok=True)


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.nbytes


def _data_files(path: Path) -> list[Path]:
    """The files of weights that were written beside a model, those that a crash left included."""
    name = re.compile(re.escape(path.name) + r"\.[0-9a-f]{32}\.data")
    return [file for file in path.parent.iterdir() if name.fullmatch(file.name)]


def _write_weights(values: list[ir.Value], path: Path) -> Path:
    """Write the weights of `values` to a file beside that of the model, and let them refer to it."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        assert value.const_value is not None
        digest.update(value.const_value.tobytes())
    target = path.with_name(f"{path.name}.{digest.hexdigest()}.data")
    with open_atomic(target) as file:
        for value in values:
            tensor = value.const_value
            assert tensor is not None
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            value.const_value = ir.ExternalTensor(
                target.name,
                file.tell(),
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=value.name or "",
            )
            file.write(tensor.tobytes())
    return target
