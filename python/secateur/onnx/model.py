"""The handle of an ONNX model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import provenance
from ..errors import FormatError
from .files import infer_shapes, one_line, read_model, write_model
from .folding import fold
from .weights import array_of, find_weights, lengths_of

PRUNED = "secateur.pruned"
"""Key of a file's metadata: the sparsity of each pruned tensor, by name, as JSON."""
VERSION = "secateur.version"
"""Key of a file's metadata: which version pruned or exported it."""
PROVENANCE = f"secateur.{provenance.KEY}"
"""Key of a file's metadata: how it was pruned, step by step, as JSON; see `secateur.provenance`."""


class Info(NamedTuple):
    """An input or output of a model.

    Attributes
    ----------
    name : str
    dtype : str
        ONNX's name of the type, e.g. ``"FLOAT"``; empty for what is no tensor.
    shape : tuple of (int, str or None), or None
        A str is the name of a dimension that is free, None one without a name. None in all: unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether arrays of this shape may be given for it."""
        if self.shape is None:
            return True
        pairs = zip(self.shape, shape, strict=False)
        return len(self.shape) == len(shape) and all(
            dim == length or not isinstance(dim, int) for dim, length in pairs
        )


class OnnxModel:
    """An ONNX model in memory: what `secateur.load` makes of a file, and `secateur.prune` prunes.

    Parameters
    ----------
    model : onnx_ir.Model
        Kept, not copied.
    path : path-like, optional
        Where it came from.

    Attributes
    ----------
    ir : onnx_ir.Model
        The graph. Its tensors are never written to, only exchanged for others.
    path : pathlib.Path or None
    masks : dict of str to ndarray of bool
        By prunable tensor, laid out as `secateur.models.onnx.OnnxView` has it; where False, weights are 0.
    provenance : list of dict
        How it was pruned, the first step first; see `secateur.provenance`.

    Examples
    --------
    >>> import onnx_ir as ir
    >>> from secateur.onnx.model import OnnxModel
    >>> text = '<ir_version: 10, opset_import: ["": 21]> net (float[N,2] x) => (float[N,2] y) { y = Relu(x) }'
    >>> OnnxModel(ir.from_onnx_text(text))
    OnnxModel(x: FLOAT[N, 2] -> y: FLOAT[N, 2]; 1 nodes)
    """

    def __init__(self, model: ir.Model, path: str | os.PathLike[str] | None = None) -> None:
        self.ir = model
        self.path = None if path is None else Path(path)
        self.masks: dict[str, NDArray[np.bool_]] = {}
        self.provenance = provenance.loads(model.metadata_props.get(PROVENANCE, "[]"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> OnnxModel:
        """Read a file, and fold what it does to constants; see `read_model` and `fold`.

        Tensors that the file says were pruned have the zeros that they have for a mask.
        """
        model = cls(fold(read_model(path)), path)
        pruned = _pruned(model.ir)
        weights = find_weights(model.ir.graph) if pruned else {}
        model.masks = {
            name: weight.read(array_of(weight.value)) != 0
            for name, weight in weights.items()
            if name in pruned
        }
        return model

    def save(self, path: str | os.PathLike[str], *, sparse: bool = False) -> None:
        """Write a file; see `write_model`. Its metadata say which tensors were pruned, how far, and how.

        With `sparse` the zeros of these are not stored; see `secateur.export_onnx`.
        """
        model = self.ir.clone()
        about = {}
        if self.masks:
            sparsity = {name: 1 - float(mask.mean()) for name, mask in sorted(self.masks.items())}
            about[PRUNED] = json.dumps(sparsity)
        if self.provenance:
            about[PROVENANCE] = provenance.dumps(self.provenance)
        if about:
            about[VERSION] = version("secateur")
        for key in (PRUNED, PROVENANCE):
            model.metadata_props.pop(key, None)
        model.metadata_props.update(about)
        weights = find_weights(model.graph) if sparse else {}
        write_model(model, path, {weights[name].value.name or "" for name in self.masks if name in weights})

    def copy(self) -> OnnxModel:
        """A model of its own; tensors, which nobody writes to, are shared."""
        other = OnnxModel(self.ir.clone(), self.path)
        other.masks = dict(self.masks)
        other.provenance = list(self.provenance)
        return other

    def with_shapes(self, shapes: Mapping[str, Sequence[int | str | None]]) -> OnnxModel:
        """A copy for inputs of these shapes alone: what is free in the file may be given.

        Plans of convolutions need the sizes of images, those of recurrent layers the number of steps.

        Parameters
        ----------
        shapes : mapping of str to sequence of (int, str or None)
            By input; a str names a dimension that stays free, None leaves it without a name.

        Raises
        ------
        ValueError
            Naming the input, if there is none of that name, or its shape is not one of the model's.
        FormatError
            If the graph cannot have them.

        Examples
        --------
        >>> import onnx_ir as ir
        >>> from secateur.onnx.model import OnnxModel
        >>> head = '<ir_version: 9, opset_import: ["": 21]>'
        >>> text = head + "net (float[N,C,H] x) => (float[N,C,H] y) { y = Relu(x) }"
        >>> OnnxModel(ir.from_onnx_text(text)).with_shapes({"x": ("N", 3, 8)})
        OnnxModel(x: FLOAT[N, 3, 8] -> y: FLOAT[N, 3, 8]; 1 nodes)
        """
        other = self.copy()
        values = {value.name: value for value in other.ir.graph.inputs if not value.is_initializer()}
        for name, shape in shapes.items():
            value = values.get(name)
            if value is None:
                known = ", ".join(str(known) for known in values)
                raise ValueError(f"shapes: the model has no input {name!r}; it has {known}")
            before = value.shape
            if before is not None and (
                len(before) != len(shape)
                or any(isinstance(old, int) and old != new for old, new in zip(before, shape, strict=True))
            ):
                raise ValueError(f"shapes: {name!r} has the shape {_text(_info(value))}, not {tuple(shape)}")
            value.shape = ir.Shape(shape)
        for node in other.ir.graph:
            for output in node.outputs:
                end = output.is_graph_output() and output.shape is not None
                output.shape = ir.Shape([None] * len(output.shape or ())) if end else None
        try:
            infer_shapes(other.ir, known=False)
        except Exception as error:  # whatever the libraries raise
            raise FormatError(f"shapes: {one_line(error)}") from None
        fold(other.ir)
        return other

    @property
    def inputs(self) -> list[Info]:
        """What a caller gives; initializers that are listed as inputs too are left out."""
        return [_info(value) for value in self.ir.graph.inputs if not value.is_initializer()]

    @property
    def outputs(self) -> list[Info]:
        """What the model returns."""
        return [_info(value) for value in self.ir.graph.outputs]

    def __repr__(self) -> str:
        ends = " -> ".join(", ".join(map(_text, infos)) for infos in (self.inputs, self.outputs))
        return f"OnnxModel({ends}; {len(self.ir.graph)} nodes)"


def _pruned(model: ir.Model) -> dict[str, float]:
    """What a file says of the sparsity of its tensors; nothing, where that makes no sense."""
    try:
        found = json.loads(model.metadata_props.get(PRUNED, "{}"))
    except (ValueError, RecursionError):
        found = {}
    return found if isinstance(found, dict) else {}


def _info(value: ir.Value) -> Info:
    lengths = lengths_of(value)
    shape = None if lengths is None else tuple(lengths)
    return Info(value.name or "", "" if value.dtype is None else value.dtype.name, shape)


def _text(info: Info) -> str:
    shape = "" if info.shape is None else f"[{', '.join('?' if d is None else str(d) for d in info.shape)}]"
    return f"{info.name}: {info.dtype}{shape}"
