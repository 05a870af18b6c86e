"""`secateur.nn.Sequential` to ONNX."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from .. import nn
from ..errors import UnsupportedOpError
from .files import infer_shapes
from .model import OnnxModel
from .weights import RECURRENT

OPSET, IR_VERSION = 18, 8
"""What ONNX Runtime has read since 1.14."""

INPUT, OUTPUT, BATCH = "input", "output", "N"

RECURRENT_OPS = {"lstm": "LSTM", "gru": "GRU", "simple_rnn": "RNN"}
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softmax": "Softmax"}
# What does the same along the last axis, however many there are before it.
ALONG_FEATURES = ("dense", "relu", "tanh", "sigmoid", "softmax", "layer_norm", "dropout", "crf")


def export_onnx(
    model: nn.Sequential | OnnxModel, path: str | os.PathLike[str], *, sparse: bool = False
) -> None:
    """Write a model to an ONNX file that stock ONNX Runtime (1.17 or newer) runs.

    The batch size is free; opset 18. Weights have the names that they have here, and the file's metadata say
    which of them were pruned, how far, and how: `secateur.load` finds the masks again. Zeros are stored like
    any other number, so that runtimes which look for 2:4 patterns find them, or with `sparse` not at all.

    Parameters
    ----------
    model : Sequential or OnnxModel
        A built model. Ids, where it begins with embeddings, become an int64 input. A `CRF` passes logits on,
        as in `predict`.
    path : path-like
        The file: written whole, or left as it was.
    sparse : bool, default=False
        Store pruned tensors as ``sparse_initializer``, their nonzeros and where they are, where that takes
        fewer bytes. ONNX Runtime and onnx's own evaluator read them, some other programs do not.

    Raises
    ------
    UnsupportedOpError
        A layer that ONNX does not have; the message names it.
    ValueError
        A model that is not built.
    TypeError
        Another kind of model.
    OSError
        If the file cannot be written; nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> import secateur as sc
    >>> model = sc.nn.Sequential([sc.nn.Dense(3, activation="relu")]).build((4,), random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sc.export_onnx(sc.prune(model, 0.5).model, f"{folder}/m.onnx")
    ...     again = sc.load(f"{folder}/m.onnx")
    >>> again
    OnnxModel(input: FLOAT[N, 4] -> output: FLOAT[N, 3]; 2 nodes)
    >>> int(again.masks["dense.weight"].sum())
    6
    """
    exported = model if isinstance(model, OnnxModel) else to_onnx(model)
    exported.save(path, sparse=sparse)


def to_onnx(model: nn.Sequential) -> OnnxModel:
    """The ONNX model of a built model; see `export_onnx`."""
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"model: expected a Sequential or OnnxModel, got {type(model).__name__}")
    if model.input_shape is None:
        raise ValueError("model: not built yet; call build(input_shape) or fit first")
    writer = _Writer(model)
    writer.chain(model.layers)
    nodes = writer.nodes
    if writer.last == INPUT:
        writer.node("Identity", [INPUT], "model")
    nodes[-1].output[0] = OUTPUT
    ids = _reads_ids(model.layers)
    graph = helper.make_graph(
        nodes,
        "secateur",
        [
            helper.make_tensor_value_info(
                INPUT, TensorProto.INT64 if ids else TensorProto.FLOAT, [BATCH, *model.input_shape]
            )
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, *model.output_shape])],
        [numpy_helper.from_array(np.array(array, order="C"), name) for name, array in writer.arrays.items()],
    )
    proto = helper.make_model(
        graph,
        producer_name="secateur",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    exported = OnnxModel(ir.from_proto(proto))
    infer_shapes(exported.ir)
    exported.masks = writer.masks
    exported.provenance = list(model.provenance)
    return exported


def _reads_ids(layers: Iterable[nn.Layer]) -> bool:
    """Whether all that a chain does with its input is to look it up."""
    for layer in layers:
        if isinstance(layer, nn.Concatenate):
            return all(map(_reads_ids, layer.branches))
        if isinstance(layer, nn.TimeDistributed):
            return _reads_ids(layer.layers)
        if not isinstance(layer, nn.Slice):
            return isinstance(layer, nn.Embedding)
    return False


class _Writer:
    """The nodes of a model, as they are found.

    ``last`` is the value that the next layer reads, ``padding`` the embedding that knows which steps are none
    (or ""), and ``lead`` how many axes of steps are before the features, where layers are run for every step
    by itself.
    """

    def __init__(self, model: nn.Sequential) -> None:
        self.nodes: list[NodeProto] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.masks: dict[str, NDArray[np.bool_]] = {}
        self.last = INPUT
        self.padding = ""
        self.lead = 0
        self._ids = _reads_ids(model.layers)

    def node(self, op: str, inputs: Sequence[str], name: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node, and name its first output after it."""
        made = [name if i == 0 else f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, name, **attributes))
        self.last = name
        return name

    def array(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant."""
        self.arrays[name] = np.asarray(values, dtype)
        return name

    def integers(self, name: str, values: Any) -> str:
        return self.array(name, values, np.int64)

    def weight(self, layer: nn.Layer, key: str, turned: bool = False) -> str:
        """Add an array of a layer, and its mask: outputs first in memory, or with `turned` last."""
        name = f"{layer.name}.{key}"
        if key in layer.masks:
            self.masks[name] = layer.masks[key].copy()
        return self.array(name, layer.params[key].T if turned else layer.params[key])

    def chain(self, layers: Iterable[nn.Layer]) -> None:
        for layer in layers:
            convert = getattr(self, f"_{layer.kind}", None)
            if convert is None:
                raise UnsupportedOpError(f"{layer.name}: ONNX has no layer of type {type(layer).__name__}")
            known = self.padding
            convert(layer)
            if self.padding == known and not layer.keeps_steps:
                self.padding = ""

    def branches(self, branches: Iterable[Iterable[nn.Layer]]) -> tuple[list[str], str]:
        """Chains that read the same: what they make, and the padding that the first of them knows of."""
        source, padding = self.last, self.padding
        made, found = [], []
        for layers in branches:
            self.last, self.padding = source, padding
            self.chain(layers)
            made.append(self.last)
            found.append(self.padding)
        return made, next((each for each in found if each), "")

    # Layers, by their kinds

    def _activation(self, layer: nn.Layer, activation: str | None) -> None:
        if activation is not None:
            attributes = {"axis": 1 + self.lead} if activation == "softmax" else {}
            self.node(ACTIVATIONS[activation], [self.last], f"{layer.name}.{activation}", **attributes)

    def _dense(self, layer: nn.Dense) -> None:
        bias = [self.weight(layer, "bias")] if layer.use_bias else []
        if not self.lead:
            self.node("Gemm", [self.last, self.weight(layer, "weight"), *bias], layer.name, transB=1)
        else:
            self.node("MatMul", [self.last, self.weight(layer, "weight", turned=True)], layer.name)
            if bias:
                self.node("Add", [self.last, *bias], f"{layer.name}.add")
        self._activation(layer, layer.activation)

    def _conv2d(self, layer: nn.Conv2D) -> None:
        axes = layer.params["weight"].ndim - 2
        inputs = [self.last, self.weight(layer, "weight")]
        inputs += [self.weight(layer, "bias")] if layer.use_bias else []
        attributes: dict[str, Any] = {
            "strides": layer.strides[:axes],
            "pads": layer.pads if axes == 2 else layer.pads[::2],
            "dilations": layer.dilation[:axes],
            "group": layer.groups,
        }
        self.node("Conv", inputs, layer.name, **attributes)
        self._activation(layer, layer.activation)

    def _conv1d(self, layer: nn.Conv1D) -> None:
        self.node("Transpose", [self.last], f"{layer.name}.across", perm=[0, 2, 1])
        self._conv2d(layer)
        self.node("Transpose", [self.last], f"{layer.name}.back", perm=[0, 2, 1])

    def _pool(self, layer: nn.MaxPool2D | nn.AveragePool2D, op: str) -> None:
        window: dict[str, Any] = {"kernel_shape": layer.window, "strides": layer.strides, "pads": layer.pads}
        self.node(op, [self.last], layer.name, **window)

    def _max_pool2d(self, layer: nn.MaxPool2D) -> None:
        self._pool(layer, "MaxPool")

    def _average_pool2d(self, layer: nn.AveragePool2D) -> None:
        self._pool(layer, "AveragePool")

    def _global_max_pool1d(self, layer: nn.GlobalMaxPool1D) -> None:
        axes = self.integers(f"{layer.name}.axes", [1])
        self.node("ReduceMax", [self.last, axes], layer.name, keepdims=0)

    def _batch_norm(self, layer: nn.BatchNorm) -> None:
        inputs = [self.weight(layer, "gamma"), self.weight(layer, "beta")]
        inputs += [
            self.array(f"{layer.name}.{key}", layer.buffers[key]) for key in ("running_mean", "running_var")
        ]
        self.node("BatchNormalization", [self.last, *inputs], layer.name, epsilon=layer.epsilon)

    def _layer_norm(self, layer: nn.LayerNorm) -> None:
        inputs = [self.last, self.weight(layer, "gamma"), self.weight(layer, "beta")]
        self.node("LayerNormalization", inputs, layer.name, axis=-1, epsilon=layer.epsilon)

    def _dropout(self, layer: nn.Layer) -> None:
        pass

    _crf = _dropout

    def _flatten(self, layer: nn.Flatten) -> None:
        self.node("Flatten", [self.last], layer.name, axis=1)

    def _relu(self, layer: nn.Layer) -> None:
        self._activation(layer, layer.kind)

    _tanh = _sigmoid = _relu

    def _softmax(self, layer: nn.Layer) -> None:
        axis = 1 + self.lead if len(layer.output_shape) == 3 else -1
        self.node("Softmax", [self.last], f"{layer.name}.softmax", axis=axis)

    def _residual(self, layer: nn.Residual) -> None:
        padding = self.padding
        sides, _ = self.branches([layer.layers, layer.shortcut])
        self.node("Add", sides, layer.name)
        self.padding = padding

    def _concatenate(self, layer: nn.Concatenate) -> None:
        made, padding = self.branches(layer.branches)
        self.node("Concat", made, layer.name, axis=-1)
        self.padding = padding

    def _slice(self, layer: nn.Slice) -> None:
        if layer.stop is None:
            self.node(
                "Gather", [self.last, self.integers(f"{layer.name}.index", layer.start)], layer.name, axis=-1
            )
            return
        values = {"start": layer.start, "stop": layer.stop, "axis": -1}
        limits = [self.integers(f"{layer.name}.{key}", [value]) for key, value in values.items()]
        self.node("Slice", [self.last, *limits], layer.name)

    def _embedding(self, layer: nn.Embedding) -> None:
        ids = self.last
        if not self._ids:
            ids = self.node("Cast", [ids], f"{layer.name}.ids", to=TensorProto.INT64)
        if layer.mask_zero and len(layer.input_shape) == 1 and not self.lead:
            self._pad(layer.name, ids, layer.input_shape[0])
        self.node("Gather", [self.weight(layer, "weight"), ids], layer.name, axis=0)

    def _pad(self, name: str, ids: str, steps: int) -> None:
        """Padding is wherever an id is 0, but at the end for ONNX: how to bring it there, and back."""
        counts = self.node("Cast", [ids], f"{name}.counts", to=TensorProto.BOOL)
        ones = self.node("Cast", [counts], f"{name}.ones", to=TensorProto.INT32)
        axes = self.integers(f"{name}.axes", [1])
        self.node("ReduceSum", [ones, axes], f"{name}.lengths", keepdims=0)
        # Sorted, and equal ones cannot be: each step by its place, padding by that behind all others.
        padding = self.node("Not", [counts], f"{name}.padding")
        behind = self.node("Cast", [padding], f"{name}.behind", to=TensorProto.INT64)
        behind = self.node("Mul", [behind, self.integers(f"{name}.steps", steps)], f"{name}.far_behind")
        places = self.node("Add", [behind, self.integers(f"{name}.range", range(steps))], f"{name}.places")
        count, last = self.integers(f"{name}.count", [steps]), self.integers(f"{name}.last", [2])
        for target in ("order", "back"):
            self.node("TopK", [places, count], f"{name}.{target}.sorted", outputs=2, axis=1, largest=0)
            places = f"{name}.{target}.sorted.1"
            self.node("Unsqueeze", [places, last], f"{name}.{target}")
        self.padding = name

    def _time_distributed(self, layer: nn.TimeDistributed) -> None:
        padding = self.padding
        if all(inner.kind in ALONG_FEATURES for inner in layer.layers):
            self.lead += 1
            self.chain(layer.layers)
            self.lead -= 1
        else:
            # Steps of samples as samples. Within them there are sequences of another kind, or none.
            lead, self.lead, self.padding = self.lead, 0, ""
            steps, *inside = layer.input_shape
            shape = self.integers(f"{layer.name}.joined_shape", [-1, *inside])
            self.node("Reshape", [self.last, shape], f"{layer.name}.joined")
            self.chain(layer.layers)
            shape = self.integers(f"{layer.name}.shape", [-1, steps, *layer.layers[-1].output_shape])
            self.node("Reshape", [self.last, shape], layer.name)
            self.lead = lead
        self.padding = padding

    def _recurrent(self, layer: Any) -> None:
        self._cells(layer.name, [layer])

    _lstm = _gru = _simple_rnn = _recurrent

    def _bidirectional(self, layer: nn.Bidirectional) -> None:
        ways: list[Any] = [layer.ahead, layer.back]
        if layer.ahead.units == layer.back.units:
            self._cells(layer.name, ways)
            return
        # Pruned to different widths, which one node cannot have.
        source, padding = self.last, self.padding
        made = []
        for way, direction in zip(ways, ("forward", "reverse"), strict=True):
            self.last, self.padding = source, padding
            self._cells(way.name, [way], direction)
            made.append(self.last)
        self.node("Concat", made, layer.name, axis=-1)

    def _cells(self, name: str, ways: list[Any], direction: str = "forward") -> None:
        """One node for one or both directions."""
        first = ways[0]
        op, units = RECURRENT_OPS[first.kind], first.units
        attributes: dict[str, Any] = {
            "hidden_size": units,
            "direction": "bidirectional" if len(ways) == 2 else direction,
        }
        if op == "GRU":
            attributes["linear_before_reset"] = 1
        if op == "RNN":
            attributes["activations"] = [ACTIVATIONS[first.activation].capitalize()] * len(ways)
        suffixes = [".forward", ".reverse"] if len(ways) == 2 else [""]
        inputs = []
        for key in ("weight", "recurrent_weight"):
            for way, suffix in zip(ways, suffixes, strict=True):
                if key in way.masks:
                    self.masks[f"{name}.{key}{suffix}"] = _gated(way, way.masks[key])
            inputs.append(self.array(f"{name}.{key}", [_gated(way, way.params[key]) for way in ways]))
        inputs.append(self.array(f"{name}.bias", [_biases(way) for way in ways]))
        if self.padding:
            inputs.append(f"{self.padding}.lengths")
            self.node("GatherND", [self.last, f"{self.padding}.order"], f"{name}.ordered", batch_dims=1)
        source = self.node("Transpose", [self.last], f"{name}.steps", perm=[1, 0, 2])
        self.node(op, [source, *inputs], f"{name}.states", outputs=2, **attributes)
        if first.return_sequences:
            # (steps, directions, samples, units)
            self.node("Transpose", [f"{name}.states"], f"{name}.samples", perm=[2, 0, 1, 3])
            shape = self.integers(f"{name}.shape", [0, 0, -1])
            self.node("Reshape", [self.last, shape], f"{name}.joined" if self.padding else name)
            if self.padding:
                self.node("GatherND", [self.last, f"{self.padding}.back"], name, batch_dims=1)
        else:
            self.node("Transpose", [f"{name}.states.1"], f"{name}.samples", perm=[1, 0, 2])
            self.node("Flatten", [self.last], name, axis=1)


def _gated(layer: Any, array: NDArray[Any]) -> NDArray[Any]:
    """Rows of a recurrent layer's array in ONNX's order of gates."""
    gates = array.reshape(layer.gates, layer.units, *array.shape[1:])
    ordered: NDArray[Any] = gates[RECURRENT[RECURRENT_OPS[layer.kind]]].reshape(array.shape)
    return ordered


def _biases(layer: Any) -> NDArray[Any]:
    """The biases of both products, one behind the other."""
    none = np.zeros(layer.gates * layer.units, np.float32)
    both = [layer.params.get(key, none) for key in ("bias", "recurrent_bias")]
    return np.concatenate([_gated(layer, bias) for bias in both])
