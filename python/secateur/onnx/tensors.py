"""What the tensors of an ONNX file claim, checked against the bytes that there are, before any is read."""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto

LARGEST_EXPANSION = 1000
"""Bytes of all dense tensors that a byte of a file may claim by storing them sparsely."""
SMALL = 1 << 20
"""Bytes that sparse tensors may claim in any case."""

# Where the numbers of a type are that are not raw; int32_data for all others.
_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.UINT64: "uint64_data",
    ir.DataType.STRING: "string_data",
}


def node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    """Every dense tensor in the attributes of nodes, those of nested graphs included."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in _graphs(attribute):
                yield from graph.initializer
                yield from node_tensors(graph.node)


def _graphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def check_tensor(tensor: TensorProto) -> None:
    """Raises ValueError, naming the tensor, if its type is unknown or its data are not of its shape."""
    name = tensor.name[:80]
    dtype = _dtype(tensor)
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"tensor {name!r} has a negative dimension")
    size = math.prod(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    if tensor.HasField("raw_data") and dtype != ir.DataType.STRING:
        have, need = len(tensor.raw_data), -(-size * dtype.bitwidth // 8)
    else:
        have = len(getattr(tensor, _FIELDS.get(dtype, "int32_data")))
        need = -(-size // _to_a_number(dtype)) * (2 if dtype.name.startswith("COMPLEX") else 1)
    if have != need:
        what = "bytes" if tensor.HasField("raw_data") else "numbers"
        raise ValueError(f"tensor {name!r} of shape {list(tensor.dims)} needs {need} {what} and has {have}")


def _dtype(tensor: TensorProto) -> ir.DataType:
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        raise ValueError(f"tensor {tensor.name[:80]!r} has the unknown type {tensor.data_type}")
    return dtype


def _to_a_number(dtype: ir.DataType) -> int:
    """How many elements one number of a field holds that is not raw."""
    return 8 // dtype.bitwidth if dtype != ir.DataType.STRING and dtype.bitwidth in (2, 4) else 1


class Folder:
    """The folder of a model, from which external data are mapped into memory.

    Data files are only opened within the folder: a path that leads out of it, or a link of either kind,
    could make a model file carry somebody's other files. What is not a regular file could block.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._maps: dict[str, mmap.mmap | bytes] = {}

    def bytes_of(self, tensor: TensorProto) -> memoryview:
        """The bytes of a tensor with external data.

        Raises
        ------
        ValueError
            Naming the tensor, if its file is refused, or does not hold what it claims.
        """
        name, dtype = tensor.name[:80], _dtype(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if dtype == ir.DataType.STRING:
            raise ValueError(f"tensor {name!r} has strings as external data")
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        except ValueError:
            raise ValueError(f"tensor {name!r} has an offset or length that is no number") from None
        data = memoryview(self._map(location, name))
        need = -(-math.prod(tensor.dims) * dtype.bitwidth // 8)
        if length not in (-1, need):
            raise ValueError(f"tensor {name!r} of shape {list(tensor.dims)} needs {need} bytes, has {length}")
        if offset < 0 or offset + need > len(data):
            raise ValueError(
                f"tensor {name!r} ends at byte {offset + need} of {location[:80]!r}, which has {len(data)}"
            )
        return data[offset : offset + need]

    def _map(self, location: str, name: str) -> mmap.mmap | bytes:
        if location not in self._maps:
            try:
                self._maps[location] = _mapped(self._path, location)
            except OSError as error:
                reason = error.strerror or str(error)
                raise ValueError(f"tensor {name!r}: external data {location[:80]!r}: {reason}") from None
            except ValueError as error:
                raise ValueError(f"tensor {name!r}: external data {location[:80]!r} {error}") from None
        return self._maps[location]


def _mapped(folder: Path, location: str) -> mmap.mmap | bytes:
    parts = PurePosixPath(location).parts
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
        raise ValueError("have an absolute path")
    if not parts or ".." in parts or "\0" in location or "\\" in location:
        raise ValueError("have no path within the model's folder")
    # Step by step, each opened within the one before: nothing can be exchanged for a link on the way.
    steps = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            steps.append(_open(part, flags, steps[-1]))
        # Not blocking: a FIFO would wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        steps.append(_open(parts[-1], flags, steps[-1]))
        status = os.fstat(steps[-1])
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("are no regular file")
        if status.st_nlink > 1:
            raise ValueError("are a file with several hard links")
        return mmap.mmap(steps[-1], 0, access=mmap.ACCESS_READ) if status.st_size else b""
    finally:
        for step in steps:
            os.close(step)


def _open(part: str, flags: int, folder: int) -> int:
    mode = os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise ValueError("are reached by a symbolic link")
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a device may do something
        raise ValueError("are no regular file")
    return os.open(part, flags, dir_fd=folder)


def from_bytes(tensor: TensorProto, data: memoryview) -> ir.TensorProtocol:
    """A tensor over its bytes, without a copy where NumPy has the type."""
    dtype = ir.DataType(tensor.data_type)
    if dtype.bitwidth % 8:
        inline = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        inline.raw_data = bytes(data)
        return ir.serde.deserialize_tensor(inline)
    array = np.frombuffer(data, dtype.numpy()).reshape(tuple(tensor.dims))
    return ir.Tensor(array, dtype=dtype, name=tensor.name, doc_string=tensor.doc_string or None)


def densify(graph: onnx.GraphProto, file_size: int) -> None:
    """Replace the sparse tensors of a graph, and of those nested in it, by dense ones: onnx-ir knows none.

    Raises
    ------
    ValueError
        Naming the tensor, for indices out of range, and for tensors too large for their file.
    """
    room = SMALL + LARGEST_EXPANSION * file_size
    for node in graph.node:
        for attribute in node.attribute:
            for nested in _graphs(attribute):
                densify(nested, file_size)
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                dense = _dense(attribute.sparse_tensor, room)
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
    for sparse in graph.sparse_initializer:
        dense = _dense(sparse, room)
        room -= len(dense.raw_data)
        graph.initializer.append(dense)
    graph.ClearField("sparse_initializer")


def _dense(sparse: onnx.SparseTensorProto, room: int) -> TensorProto:
    """A tensor with its zeros, of no more bytes than `room`."""
    values, indices = sparse.values, sparse.indices
    name, shape = values.name[:80], tuple(sparse.dims)
    for part in (values, indices):
        check_tensor(part)
        if part.data_location == TensorProto.EXTERNAL:
            raise ValueError(f"sparse tensor {name!r} has external data")
    dtype = _dtype(values)
    if dtype == ir.DataType.STRING or dtype.bitwidth % 8 or any(dim < 0 for dim in shape):
        raise ValueError(f"sparse tensor {name!r} has a type or shape that cannot be")
    if math.prod(shape) * dtype.itemsize > room:
        raise ValueError(f"sparse tensor {name!r} of shape {list(shape)} is too large for its file")
    stored = ir.serde.deserialize_tensor(values).numpy().ravel()
    array = np.zeros(shape, stored.dtype)
    array.reshape(-1)[_flat_indices(name, indices, shape, stored.size)] = stored
    return TensorProto(name=values.name, data_type=values.data_type, dims=shape, raw_data=array.tobytes())


def sparsify(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Store the nonzeros of initializers and where they are, where that takes fewer bytes; the inverse of
    `densify`.

    Indices are int64, but as protobuf's numbers of variable length: three bytes for those below two million.
    """
    whole = list(graph.initializer)
    graph.ClearField("initializer")
    for tensor in whole:
        found = _sparse(tensor) if tensor.name in names else None
        if found is not None and found.ByteSize() < tensor.ByteSize():
            graph.sparse_initializer.append(found)
        else:
            graph.initializer.append(tensor)


def _sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    array = ir.serde.deserialize_tensor(tensor).numpy()
    flat = array.reshape(-1)
    places = np.flatnonzero(flat)
    found = onnx.SparseTensorProto(dims=tensor.dims)
    found.values.name, found.values.data_type = tensor.name, tensor.data_type
    found.values.dims.append(len(places))
    found.values.raw_data = flat[places].tobytes()
    found.indices.data_type = TensorProto.INT64
    found.indices.dims.append(len(places))
    found.indices.int64_data.extend(places.tolist())
    return found


def _flat_indices(
    name: str, indices: TensorProto, shape: tuple[int, ...], count: int
) -> np.ndarray[Any, Any]:
    if _dtype(indices) != ir.DataType.INT64:
        raise ValueError(f"sparse tensor {name!r} has indices that are not int64")
    found = np.asarray(ir.serde.deserialize_tensor(indices).numpy())
    if found.shape == (count, len(shape)) and len(shape) > 1:
        if count and ((found < 0).any() or (found >= np.array(shape)).any()):
            raise ValueError(f"sparse tensor {name!r} has indices outside its shape {list(shape)}")
        found = np.ravel_multi_index(tuple(found.T), shape) if count else found[:, 0]
    elif found.shape not in ((count,), (count, 1)):
        raise ValueError(f"sparse tensor {name!r} has {count} values and indices of shape {found.shape}")
    found = found.ravel()
    if count and (found.min() < 0 or found.max() >= math.prod(shape)):
        raise ValueError(f"sparse tensor {name!r} has indices outside its shape {list(shape)}")
    return found
