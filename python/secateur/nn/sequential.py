"""A chain of layers that can be trained, evaluated, pruned and saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import accounts, training
from .activations import Softmax
from .callbacks import Callback
from .checkpoint import TrainingCheckpoint
from .data import same_length, samples
from .history import History
from .layers import (
    BoolArray,
    FloatArray,
    Layer,
    Shape,
    backward_through,
    checked_layers,
    forward_through,
    name_layers,
    positive,
)
from .losses import Loss, SparseCategoricalCrossentropy, get_loss, loss_config, loss_from_config
from .optimizers import Optimizer
from .time_distributed import TimeDistributed


class Sequential:
    """A chain of layers.

    Parameters
    ----------
    layers : iterable of Layer
        At least one; each belongs to one model only.

    Attributes
    ----------
    layers : list of Layer
    input_shape : tuple of int or None
        The shape of one sample, e.g. ``(1, 28, 28)``; None until the model is built.
    loss : Loss
        The loss of the latest `fit`, cross-entropy before; `evaluate` uses it.
    provenance : list of dict
        How it was pruned, the first step first; see `secateur.provenance`. Files have it too.

    Raises
    ------
    ValueError
        If there is no layer, something else than a layer, or one layer twice.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> model = nn.Sequential([nn.Flatten(), nn.Dense(16, activation="relu"), nn.Dense(2)])
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(256, 1, 2, 2))
    >>> y = (x.sum(axis=(1, 2, 3)) > 0).astype(int)
    >>> history = model.fit(x, y, epochs=20, optimizer=nn.Adam(0.01), random_state=0)
    >>> model.evaluate(x, y)["accuracy"] > 0.9
    True
    >>> model.num_parameters()
    114
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers = list(layers)
        if not self.layers:
            raise ValueError("layers: expected at least one layer, got none")
        checked_layers(self.layers)
        checked_layers(list(self.leaves()))
        name_layers(self.layers)
        self.input_shape: Shape | None = None
        self.loss: Loss = SparseCategoricalCrossentropy()
        self.provenance: list[dict[str, Any]] = []

    # Building and looking

    @property
    def built(self) -> bool:
        """Whether the layers have their parameters."""
        return self.input_shape is not None

    def build(
        self, input_shape: Sequence[int], random_state: int | np.random.Generator | None = None
    ) -> Sequential:
        """Make the parameters (anew) for samples of `input_shape` and return the model.

        Parameters
        ----------
        input_shape : sequence of int
            One sample's shape: (features,), (steps, features), (channels, height, width), or (steps,) of ids.
        random_state : int, numpy.random.Generator or None
            Draws the first weights.

        Raises
        ------
        ValueError
            If a layer cannot take what comes to it; the message names the layer.
        """
        shape = tuple(positive("input_shape", n) for n in input_shape)
        if not shape:
            raise ValueError("input_shape: expected at least one axis, got ()")
        rng = np.random.default_rng(random_state)
        self.input_shape, self.provenance = None, []
        step = shape
        for layer in self.layers:
            step = layer.build(step, rng)
        self.input_shape = shape
        return self

    @property
    def output_shape(self) -> Shape:
        """The shape of one sample's output."""
        self._check_built()
        return self.layers[-1].output_shape

    def _check_built(self) -> Shape:
        if self.input_shape is None:
            raise ValueError("model: it is not built yet; call build(input_shape) or fit")
        return self.input_shape

    def leaves(self) -> Iterator[Layer]:
        """The layers in running order, those inside others (`Residual`) instead of these."""
        for layer in self.layers:
            yield from layer.leaves()

    def parameters(self) -> dict[str, FloatArray]:
        """The live trainable arrays by name, ``"conv2d.weight"``, in the order of the layers."""
        return {
            f"{layer.name}.{key}": array for layer in self.leaves() for key, array in layer.params.items()
        }

    def buffers(self) -> dict[str, FloatArray]:
        """The live arrays that have no gradient, by name, ``"batch_norm.running_mean"``."""
        return {
            f"{layer.name}.{key}": array for layer in self.leaves() for key, array in layer.buffers.items()
        }

    def gradients(self) -> dict[str, FloatArray]:
        """The gradients of the latest backward pass, named as the parameters."""
        return {
            f"{layer.name}.{key}": layer.grads[key]
            for layer in self.leaves()
            for key in layer.params
            if key in layer.grads
        }

    def prunable(self) -> list[str]:
        """The names of the parameters that pruning may touch: weights, but for those of `Embedding`."""
        return [f"{layer.name}.{key}" for layer in self.leaves() for key in layer.prunable]

    @property
    def masks(self) -> dict[str, BoolArray]:
        """The masks by parameter name (a new dict; `set_masks` changes them)."""
        return {f"{layer.name}.{key}": mask for layer in self.leaves() for key, mask in layer.masks.items()}

    def set_masks(self, masks: Mapping[str, ArrayLike]) -> None:
        """Put `masks` in place of all former ones, and set the weights to 0 where they are False.

        Masked weights stay exactly 0 through any optimizer's steps.

        Parameters
        ----------
        masks : mapping of parameter name to array of bool
            Of the parameters' shapes; parameters that are not named are free, so ``{}`` frees all.

        Raises
        ------
        ValueError
            If a name, a shape or a dtype is wrong; the model is not changed then.
        """
        params = self.parameters()
        checked: dict[str, BoolArray] = {}
        for name, values in masks.items():
            if name not in params:
                raise ValueError(f"masks: the model has no parameter {name!r}; it has {', '.join(params)}")
            mask = np.array(values, order="C")
            if mask.dtype != np.bool_ or mask.shape != params[name].shape:
                wanted = f"bools of shape {params[name].shape}"
                raise ValueError(
                    f"masks: expected {wanted} for {name}, got {mask.dtype} of shape {mask.shape}"
                )
            checked[name] = mask
        for layer in self.leaves():
            named = {key: checked.get(f"{layer.name}.{key}") for key in layer.params}
            layer.masks = {key: mask for key, mask in named.items() if mask is not None}
            layer.apply_masks()

    def num_parameters(self, nonzero: bool = False) -> int:
        """How many trainable numbers the model has, or how many of them are not 0."""
        self._check_built()
        count = np.count_nonzero if nonzero else np.size
        return sum(int(count(array)) for array in self.parameters().values())

    def macs(self) -> int:
        """Multiply-adds of one sample's forward pass, pruned or not."""
        self._check_built()
        return sum(layer.macs() * layer.times for layer in self.leaves())

    def memory(self, batch_size: int = 32, optimizer: Optimizer | None = None) -> dict[str, int]:
        """How many bytes the model takes in training, as it is now.

        Parameters
        ----------
        batch_size : int
            Samples at a time.
        optimizer : Optimizer or None
            The one in use, e.g. a callback's ``state.optimizer``.

        Returns
        -------
        dict
            ``"weights"``: parameters, buffers and masks, and what is packed of them; ``"state"``: what the
            optimizer remembers, of packed layers that of the nonzeros; ``"activations"``: a batch's samples
            and the layers' outputs.

        Raises
        ------
        ValueError
            If the model is not built, or the batch size is not positive.

        Examples
        --------
        >>> from secateur import nn
        >>> model = nn.Sequential([nn.Dense(10, activation="relu"), nn.Dense(2)]).build((20,))
        >>> model.memory(batch_size=8)
        {'weights': 928, 'state': 0, 'activations': 1024}
        """
        self._check_built()
        return accounts.memory(self, positive("batch_size", batch_size), optimizer)

    def summary(self) -> str:
        """A table of the layers: output shape, parameters, those that are not 0, multiply-adds."""
        self._check_built()
        return accounts.table(self)

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self.layers))}])"

    # Running

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        """The outputs for a float32 batch (n, *input_shape); `training` keeps what `backward` needs."""
        return forward_through(self.layers, x, training)[0]

    def backward(self, dy: FloatArray) -> None:
        """Fill the layers' gradients from that of the outputs of the latest ``forward(x, training=True)``."""
        # Nobody needs the gradient of the data.
        backward_through(self.layers, dy, need_dx=False)

    def compute_gradients(self, x: ArrayLike, y: ArrayLike, loss: str | Loss | None = None) -> float:
        """Fill the layers' gradients for all of `x` at once, change nothing else, and return the mean loss.

        Parameters
        ----------
        x : array of shape (n, *input_shape)
        y : array
            Targets as the loss takes them.
        loss : str, Loss or None
            None: the model's own.

        Raises
        ------
        ValueError
            If the model is not built, or data and labels do not fit it.
        """
        objective = self.loss if loss is None else get_loss(loss)
        objective.bind(self)
        x = samples(x, self._check_built())
        targets = objective.check(y, self.output_shape)
        same_length(x, targets)
        kept = {name: array.copy() for name, array in self.buffers().items()}
        outputs = self.forward(x, training=True)
        value, dy = objective.gradient(outputs, targets)
        self.backward(dy)
        for name, array in self.buffers().items():
            array[...] = kept[name]
        return value

    def predict(self, x: ArrayLike, batch_size: int = 256) -> FloatArray:
        """The outputs for all of `x`, computed in batches.

        Parameters
        ----------
        x : array of shape (n, *input_shape)
            Any real dtype; converted to float32.
        batch_size : int
            Samples at a time; the result depends on it no more than by rounding.

        Returns
        -------
        ndarray of float32, shape (n, *output_shape)

        Raises
        ------
        ValueError
            If the model is not built or the samples do not fit it.
        """
        x = samples(x, self._check_built())
        size = positive("batch_size", batch_size)
        outputs = np.empty((len(x), *self.output_shape), np.float32)
        for start in range(0, len(x), size):
            outputs[start : start + size] = self.forward(x[start : start + size])
        return outputs

    def evaluate(
        self, x: ArrayLike, y: ArrayLike, batch_size: int = 256, loss: str | Loss | None = None
    ) -> dict[str, float]:
        """The mean loss over `x`, and the accuracy where the loss has one.

        Parameters
        ----------
        x : array of shape (n, *input_shape)
        y : array
            Targets as the loss takes them.
        batch_size : int
            Samples at a time.
        loss : str, Loss or None
            None: the model's own.

        Returns
        -------
        dict
            ``"loss"`` and perhaps ``"accuracy"``.

        Raises
        ------
        ValueError
            If the model is not built, or data and labels do not fit it.
        """
        objective = self.loss if loss is None else get_loss(loss)
        objective.bind(self)
        x = samples(x, self._check_built())
        targets = objective.check(y, self.output_shape)
        same_length(x, targets)
        return training.evaluate(self, x, targets, objective, positive("batch_size", batch_size))

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        epochs: int = 1,
        batch_size: int = 32,
        optimizer: str | Optimizer | None = None,
        loss: str | Loss = "sparse_categorical_crossentropy",
        shuffle: bool = True,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        callbacks: Iterable[Callback] | None = (),
        random_state: int | np.random.Generator | None = None,
        progress: bool = True,
        resume: TrainingCheckpoint | None = None,
        teacher: Any = None,
        temperature: float = 2.0,
        alpha: float = 0.5,
        packed: str | float | None = "auto",
    ) -> History:
        """Train the model; build it first if it is not built.

        Parameters
        ----------
        x : array of shape (n, *input_shape)
            Any real dtype; converted to float32 once.
        y : array
            Integer labels of shape (n,) for cross-entropy, (n, steps) where every step has logits; numbers of
            the outputs' shape for MSE.
        epochs : int
            Passes over the data in all, those of a resumed run included.
        batch_size : int
            Samples per optimizer step.
        optimizer : {"adam", "sgd"}, Optimizer or None
            An object goes on from its present state. None: Adam, or the checkpoint's.
        loss : {"sparse_categorical_crossentropy", "mse"} or Loss
            Cross-entropy is taken from logits.
        shuffle : bool
            Whether each epoch takes the samples in a new order.
        validation_data : (x, y) or None
            Evaluated after every epoch.
        callbacks : iterable of Callback or None
        random_state : int, numpy.random.Generator or None
            Draws the first weights and the order of the samples. Same seed, same result, for any thread
            count; where large layers are pruned, see `packed`.
        progress : bool
            Whether to show a progress bar, if stderr is a terminal.
        resume : TrainingCheckpoint or None
            Go on from there: the model's weights and masks, the optimizer, the order of the samples, the
            history and the callbacks are put into its state. With the same data and arguments the result
            equals, bit for bit, that of a run never interrupted; where large layers are pruned, see `packed`.
        teacher : model or array-like of shape (n, classes), optional
            Distillation (Hinton et al., arXiv 1503.02531): what has ``predict(x)``, or its logits for `x`.
            The loss becomes ``(1 - alpha) * loss + alpha * temperature**2 * KL(teacher || model)`` with both
            sides' logits divided by the temperature. Cross-entropy only.
        temperature : float
            Above 0.
        alpha : float
            In [0, 1]: how much the teacher counts.
        packed : {"auto"}, float or None
            Which pruned layers are trained on their nonzeros alone, with a cost that falls
            with the density. "auto": those for which this is measured to be faster, if there are enough
            batches to come (some hundred) to pay for trying; the logs have the share of the multiply-adds as
            ``"packed"``. A number: those of that density and less, at once and without measuring, so that the
            same seed gives the same bits. None: none. The results differ by rounding.

        Returns
        -------
        History

        Raises
        ------
        ValueError
            If an argument is wrong or does not fit the others; nothing has been changed then.
        KeyboardInterrupt
            After Ctrl-C, when the callbacks have finished.
        """
        arguments = training.FitArguments(
            x,
            y,
            epochs,
            batch_size,
            optimizer,
            loss,
            shuffle,
            validation_data,
            callbacks,
            random_state,
            progress,
            resume,
            teacher,
            temperature,
            alpha,
            packed,
        )
        return training.fit(self, arguments)

    def check_loss(self, loss: Loss) -> None:
        """A ValueError where the model's last activation and `loss` would both take a softmax."""
        last = self.layers[-1]
        while isinstance(last, TimeDistributed):
            last = last.layers[-1]
        softmax = isinstance(last, Softmax) or getattr(last, "activation", None) == "softmax"
        if softmax and isinstance(loss, SparseCategoricalCrossentropy):
            raise ValueError(
                f"loss: {loss.name} takes logits, but {last.name} ends in a softmax; leave that out"
            )

    # State

    def get_weights(self) -> list[FloatArray]:
        """Copies of all layers' weights, layer by layer."""
        return [array for layer in self.leaves() for array in layer.get_weights()]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Replace all layers' weights by copies of `weights`, ordered as `get_weights` returns them.

        Raises
        ------
        ValueError
            If there are more or fewer arrays, or one has another shape.
        """
        counts = [len(layer.params) + len(layer.buffers) for layer in self.leaves()]
        if len(weights) != sum(counts):
            raise ValueError(f"weights: the model has {sum(counts)} arrays, got {len(weights)}")
        start = 0
        for layer, count in zip(self.leaves(), counts, strict=True):
            layer.set_weights(weights[start : start + count])
            start += count

    def snapshot(self) -> dict[str, Any]:
        """Copies of parameters, buffers and masks, by name, and of the provenance, for `restore`."""
        groups: dict[str, Mapping[str, NDArray[Any]]] = {
            "parameters": self.parameters(),
            "buffers": self.buffers(),
            "masks": self.masks,
        }
        copies = {group: {k: v.copy() for k, v in arrays.items()} for group, arrays in groups.items()}
        return {**copies, "provenance": list(self.provenance)}

    def restore(self, snapshot: Mapping[str, Any], resize: bool = False) -> None:
        """Put a `snapshot` of this model, or of one of the same shape, back.

        With `resize` the shape may be that which this model had, or will have, with other numbers of neurons.

        Raises
        ------
        ValueError
            If it does not fit the model; nothing is changed then.
        """
        kept = {**snapshot["parameters"], **snapshot["buffers"]}
        wanted = {name: array.shape for name, array in kept.items()}
        if resize and self._shapes() != wanted:
            self.resize(wanted)
        if self._shapes() != wanted:
            raise ValueError("snapshot: it belongs to a model of another shape")
        for name, array in {**self.parameters(), **self.buffers()}.items():
            array[...] = kept[name]
        self.set_masks(snapshot["masks"])
        self.provenance = list(snapshot.get("provenance", self.provenance))

    def _shapes(self) -> dict[str, Shape]:
        """The shapes of parameters and buffers."""
        return {name: array.shape for name, array in {**self.parameters(), **self.buffers()}.items()}

    def resize(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Make the layers as wide as the weights of these shapes say, with arrays that are built anew.

        Parameters
        ----------
        shapes : mapping of name to shape
            Of all parameters and buffers.

        Returns
        -------
        dict of str to tuple of int
            The shapes that layers of these widths have. If they are not `shapes`, the model is not changed.
        """
        trial = Sequential([Layer.from_config(layer.config()) for layer in self.layers])
        input_shape = self._check_built()
        trial._widen(shapes, input_shape)
        found = trial._shapes()
        if found == shapes:
            self._widen(shapes, input_shape)
        return found

    def _widen(self, shapes: Mapping[str, Shape], input_shape: Shape) -> None:
        for layer in self.leaves():
            if f"{layer.name}.weight" in shapes:
                layer.set_width(shapes[f"{layer.name}.weight"][0])
        steps = self.provenance
        self.build(input_shape, random_state=0)
        self.provenance = steps

    def config(self) -> dict[str, Any]:
        """The architecture, ready for JSON: layers, input shape, loss."""
        shape = None if self.input_shape is None else list(self.input_shape)
        return {
            "layers": [layer.config() for layer in self.layers],
            "input_shape": shape,
            "loss": loss_config(self.loss),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Sequential:
        """A new model of that architecture, with new weights where the input shape is known.

        Raises
        ------
        ValueError
            If the configuration names an unknown layer or loss, or wrong arguments.
        """
        model = cls([Layer.from_config(layer) for layer in config["layers"]])
        model.loss = loss_from_config(config["loss"])
        if config["input_shape"] is not None:
            model.build(config["input_shape"], random_state=0)
        return model

    def copy(self) -> Sequential:
        """A deep copy: architecture, weights and masks."""
        model = Sequential([Layer.from_config(layer.config()) for layer in self.layers])
        model.loss, model.provenance = self.loss, list(self.provenance)
        if self.input_shape is not None:
            model.build(self.input_shape, random_state=0)
            model.restore(self.snapshot())
        return model
