"""What every layer is: shapes, named parameters, forward and backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core

FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]
Shape: TypeAlias = tuple[int, ...]

NO_GRADIENT: FloatArray = np.empty(0, np.float32)
"""What `Layer.backward` returns where no gradient with respect to the input was asked for."""


class Layer:
    """Base of the layers.

    Attributes
    ----------
    name : str
        Unique within a model, given by `Sequential` (`rename`): ``"conv2d"``, ``"conv2d_1"``, …
    params : dict of str to ndarray of float32
        What training changes: ``"weight"``, ``"bias"``, … To be asked for where it is needed: an array that
        was asked for before the latest step may have fallen behind.
    buffers : dict of str to ndarray of float32
        What belongs to the model but has no gradient: running statistics.
    grads : dict of str to ndarray of float32
        After `backward`, the loss's gradient for every key of `params`.
    masks : dict of str to ndarray of bool
        Where False, the parameter of that name is and stays 0.
    input_shape, output_shape : tuple of int
        Shapes of one sample, known after `build`.
    times : int
        How often the layer is run for one sample of the model; more than once within `TimeDistributed`.
    steps : ndarray of bool (n, t) or None
        Which steps of the batch's sequences count, where some are padding; set before `forward` by what holds
        the layer.
    """

    kind: ClassVar[str] = "layer"
    """The layer's word in configurations and names; a subclass that is to be saved gives its own."""
    prunable: ClassVar[tuple[str, ...]] = ()
    """The keys of `params` that pruning may touch."""
    kinds: ClassVar[dict[str, type[Layer]]] = {}
    """Every layer class by its `kind`."""

    def __init_subclass__(cls) -> None:
        if "kind" in cls.__dict__:
            Layer.kinds[cls.kind] = cls

    def __init__(self) -> None:
        self.name = self.kind
        self.params: dict[str, FloatArray] = {}
        self.buffers: dict[str, FloatArray] = {}
        self.grads: dict[str, FloatArray] = {}
        self.masks: dict[str, BoolArray] = {}
        self.input_shape: Shape = ()
        self.output_shape: Shape = ()
        self.times = 1
        self.steps: BoolArray | None = None

    def rename(self, name: str) -> None:
        """Take a name, and name what the layer is made of after it."""
        self.name = name

    def leaves(self) -> Iterator[Layer]:
        """The layers that this one is made of, in running order: itself, unless it holds others."""
        yield self

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Make the parameters for samples of `input_shape`, drawn from `rng`, and return the output's shape.

        Raises
        ------
        ValueError
            If the layer cannot take samples of that shape.
        """
        self.output_shape = self._build(input_shape, rng)
        self.input_shape = input_shape
        self.times = 1
        self.masks = {}
        self.release()
        return self.output_shape

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        return input_shape

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        """The output for a batch `x` of shape (n, *input_shape); `training` keeps what `backward` needs."""
        raise NotImplementedError

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        """Fill `grads` from the gradient of the output, and return that of the input.

        It belongs to the latest ``forward(x, training=True)``. Without `need_dx` the result is empty.
        """
        raise NotImplementedError

    @property
    def keeps_steps(self) -> bool:
        """Whether the steps of the output are those of the input."""
        return len(self.output_shape) > 1 and self.output_shape[0] == self.input_shape[0]

    def steps_after(self, x: FloatArray) -> BoolArray | None:
        """The `steps` of the output for a batch `x`, after `forward`: the input's, unless no time is left."""
        return self.steps if self.keeps_steps else None

    def release(self) -> None:
        """Forget what the latest forward pass kept for `backward`, and the gradients."""
        self.grads, self.steps = {}, None

    def macs(self) -> int:
        """Multiply-adds of one run for one sample."""
        return 0

    def set_width(self, width: int) -> None:
        """Have weights of so many rows from the next `build` on; layers whose output is as wide as their
        input have none of their own."""

    def arrays(self) -> tuple[FloatArray, ...]:
        """Parameters and buffers as they lie in memory, perhaps behind what was trained since."""
        return (*self.params.values(), *self.buffers.values())

    def packed_bytes(self) -> int:
        """What the layer's packed weights take."""
        return 0

    def config(self) -> dict[str, Any]:
        """The constructor's arguments and the layer's ``"kind"``, ready for JSON."""
        return {"kind": self.kind}

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Layer:
        """A new layer from `config`, as `Layer.config` made it.

        Raises
        ------
        ValueError
            If the kind of layer is unknown.
        """
        arguments = dict(config)
        kind = arguments.pop("kind", None)
        if kind not in Layer.kinds:
            raise ValueError(f"kind: unknown layer {kind!r}; choose from {', '.join(sorted(Layer.kinds))}")
        return Layer.kinds[kind].revive(arguments)

    @classmethod
    def revive(cls, arguments: dict[str, Any]) -> Layer:
        """A new layer from the arguments that `config` gave, without its kind."""
        return cls(**arguments)

    def get_weights(self) -> list[NDArray[np.float32]]:
        """Copies of the parameters, then of the buffers, in the order of their dictionaries."""
        return [array.copy() for array in (*self.params.values(), *self.buffers.values())]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Replace parameters and buffers by copies of `weights`, ordered as `get_weights` returns them.

        Where the layer has masks, masked weights become 0.

        Raises
        ------
        ValueError
            If there are more or fewer arrays, or one has another shape.
        """
        names = [*self.params, *self.buffers]
        if len(weights) != len(names):
            raise ValueError(f"weights: {self.name} has {len(names)} arrays, got {len(weights)}")
        targets = [*self.params.values(), *self.buffers.values()]
        arrays = [np.asarray(array, np.float32) for array in weights]
        for name, target, array in zip(names, targets, arrays, strict=True):
            if array.shape != target.shape:
                raise ValueError(
                    f"weights: {self.name}.{name} has shape {target.shape}, got shape {array.shape}"
                )
        for target, array in zip(targets, arrays, strict=True):
            target[...] = array
        self.apply_masks()

    def set_mask(self, key: str, mask: BoolArray) -> None:
        """Take the mask of one parameter, of its shape, and set the parameter to 0 where it is False.

        The mask is not copied where it is in C order and its bytes are 0 and 1.
        """
        self.masks[key] = np.ascontiguousarray(mask)
        self._apply_mask(key)

    def apply_masks(self) -> None:
        """Set the parameters to 0 where their masks are False."""
        for key in self.masks:
            self._apply_mask(key)

    def _apply_mask(self, key: str) -> None:
        kept = self.masks[key].view(np.uint8)
        if not _core.mask_into(self.params[key].view(np.uint32), kept):
            # The bytes of a view may be anything, of the core's bools not.
            self.masks[key] = kept != 0

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.config().items() if key != "kind")
        return f"{type(self).__name__}({arguments})"


class Container(Layer):
    """Base of the layers that are made of others, its `leaves`."""

    def release(self) -> None:
        super().release()
        for leaf in self.leaves():
            leaf.release()

    def macs(self) -> int:
        return sum(leaf.macs() * leaf.times for leaf in self.leaves())


def checked_layers(layers: Sequence[Any]) -> None:
    """A ValueError unless these are layers, each of them once."""
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise ValueError(f"layers: expected Layer objects, got {type(layer).__name__} at {i}")
        if any(layer is other for other in layers[:i]):
            raise ValueError(f"layers: the same {layer.kind} object twice (at {i}); make a second one")


def name_layers(layers: Iterable[Layer], prefix: str = "") -> None:
    """Name layers after their kinds, from the second of a kind on with a number."""
    counts: dict[str, int] = {}
    for layer in layers:
        count = counts.get(layer.kind, 0)
        layer.rename(f"{prefix}{layer.kind}_{count}" if count else f"{prefix}{layer.kind}")
        counts[layer.kind] = count + 1


def forward_through(
    layers: Sequence[Layer], x: FloatArray, training: bool, steps: BoolArray | None = None
) -> tuple[FloatArray, BoolArray | None]:
    """`Layer.forward` of a chain of layers, and the steps that count in its output."""
    for layer in layers:
        layer.steps = steps
        y = layer.forward(x, training)
        steps = layer.steps_after(x)
        x = y
    return x, steps


def backward_through(layers: Sequence[Layer], dy: FloatArray, need_dx: bool) -> FloatArray:
    """`Layer.backward` of a chain of layers, as far as anything needs it."""
    # Asking for the parameters of a packed layer would bring them up to date.
    has = (any(leaf.prunable or leaf.params for leaf in layer.leaves()) for layer in layers)
    trained = (i for i, found in enumerate(has) if found)
    first = 0 if need_dx else next(trained, len(layers))
    for i in range(len(layers) - 1, first - 1, -1):
        dy = layers[i].backward(dy, need_dx=need_dx or i > first)
    return dy


def glorot_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> FloatArray:
    """Weights drawn evenly from ±sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio, AISTATS 2010)."""
    limit = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def positive(name: str, value: Any) -> int:
    """`value` as a positive int, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return int(value)


def in_range(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a float in [low, high), or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not low <= value < high:
        raise ValueError(f"{name}: expected a number in [{low:g}, {high:g}), got {value!r}")
    return float(value)


def above_zero(name: str, value: Any) -> float:
    """`value` as a finite positive float, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < np.inf:
        raise ValueError(f"{name}: expected a positive number, got {value!r}")
    return float(value)


def batch_count(name: str, value: Any) -> int:
    """`value` as a number of batches, perhaps none, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name}: expected a number of batches of at least 0, got {value!r}")
    return int(value)


def pair(name: str, value: Any) -> tuple[int, int]:
    """A positive int, or two of them (height, width), as a pair."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name}: expected one or two positive integers, got {value!r}")
        return positive(name, value[0]), positive(name, value[1])
    return positive(name, value), positive(name, value)


class Flatten(Layer):
    """Every sample as one row of features, in C order (channel, row, column).

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.Flatten()
    >>> layer.build((2, 3, 4), np.random.default_rng(0))
    (24,)
    """

    kind = "flatten"

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        return (int(np.prod(input_shape)),)

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        return x.reshape(len(x), -1)

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        return dy.reshape(len(dy), *self.input_shape)
