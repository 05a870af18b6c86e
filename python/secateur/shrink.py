"""Taking neurons out of a model for real: smaller arrays, not zeros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .models.view import BoolArray, Consumer, FloatArray, ModelView, view
from .neurons import Layout

Model = TypeVar("Model")


def keep_neurons(
    model_view: ModelView,
    kept: Mapping[str, NDArray[np.intp]],
    removable: Mapping[str, list[Consumer]],
    slots: Iterable[dict[str, FloatArray]] = (),
) -> None:
    """Leave of the layers in `kept` only those neurons; in place.

    Biases, normalization vectors, masks, and the weights that read the removed neurons follow. What the model
    computes is what it would with the readers' weights of those neurons at zero.

    Parameters
    ----------
    model_view : ModelView
    kept : mapping of tensor name to array of int
    removable : mapping of tensor name to list of Consumer
        As in `Layout`.
    slots : iterable of dict
        What an optimizer remembers, by the arrays' names: it follows as well.
    """
    # By array and axis, the entries that go: several layers may have some along one axis.
    gone: dict[tuple[str, int], list[NDArray[np.intp]]] = {}
    for name, neurons in kept.items():
        width = len(model_view.array(name)) // removable[name][0].tile
        removed = np.setdiff1d(np.arange(width), neurons)
        for consumer in removable[name]:
            gone.setdefault((consumer.name, consumer.axis), []).append(consumer.places(removed, width))
    arrays: dict[str, FloatArray] = {}
    memories = [(memory, dict(memory)) for memory in slots]
    masks = dict(model_view.masks())
    for (name, axis), places in gone.items():
        array = arrays[name] if name in arrays else model_view.array(name)
        left = np.setdiff1d(np.arange(array.shape[axis]), np.concatenate(places))
        arrays[name] = np.take(array, left, axis)
        followers: list[dict[str, Any]] = [masks, *(smaller for _, smaller in memories)]
        for held in followers:
            if name in held:
                held[name] = np.take(held[name], left, axis)
    if arrays:
        model_view.replace(arrays)
        model_view.set_masks(masks)
        for memory, smaller in memories:
            memory.update(smaller)


def dead_neurons(
    tensors: Mapping[str, FloatArray], removable: Mapping[str, list[Consumer]]
) -> dict[str, BoolArray]:
    """Which neurons are read by zeros only, so that taking them out changes nothing.

    A neuron whose readers are all dead is dead too; a unit of a recurrent layer that reads itself is not. One
    neuron of every layer counts as alive in any case.
    """
    dead = {name: np.zeros(len(tensors[name]) // own[0].tile, bool) for name, own in removable.items()}
    # Whose neurons the rows of a tensor are.
    rows = {
        consumer.name: (name, consumer)
        for name, consumers in removable.items()
        for consumer in consumers
        if consumer.axis == 0
    }
    found = True
    while found:
        found = False
        for name, consumers in removable.items():
            unread = np.ones(len(dead[name]), bool)
            for consumer in consumers:
                if consumer.name not in tensors or consumer.axis == 0:
                    continue
                used = tensors[consumer.name] != 0
                if consumer.name in rows:
                    reader, own = rows[consumer.name]
                    used[own.places(np.flatnonzero(dead[reader]), len(dead[reader]))] = False
                unread &= ~consumer.by_neuron(used, len(unread)).any(axis=1)
            if unread.all() and len(unread):
                unread[0] = False
            found = found or bool((unread & ~dead[name]).any())
            dead[name] |= unread
    return dead


def remove_dead_neurons(model: Model, *, inplace: bool = False) -> Model:
    """Make the layers of a pruned model as narrow as its zeros allow, without changing what it computes.

    A neuron (or channel) goes if all weights that read it are zero, with its bias and what belongs to it in
    normalizations. Dynamic pruning of neurons leaves such zeros; so, now and then, does that of weights.

    Parameters
    ----------
    model : model with a `ModelView`
    inplace : bool
        Whether to change `model` itself; its optimizer's state does not fit it any more then.

    Returns
    -------
    model
        Of the same kind, never wider. Outputs are the same but for the order of floating-point sums.

    Raises
    ------
    UnsupportedOpError
        If a layer of the model mixes neurons; the message names it, and nothing has been changed.

    Examples
    --------
    >>> import numpy as np
    >>> import secateur as sc
    >>> model = sc.nn.Sequential([sc.nn.Dense(4, activation="relu"), sc.nn.Dense(2)]).build((3,))
    >>> model.set_masks({"dense_1.weight": np.tile([True, False, True, True], (2, 1))})
    >>> sc.remove_dead_neurons(model).layers[0].units
    3
    """
    original: Any = view(model)
    layout = Layout.of(original)
    dead = dead_neurons(original.parameters(), layout.removable)
    kept = {name: np.flatnonzero(~gone) for name, gone in dead.items() if gone.any()}
    target = original if inplace else original.clone()
    keep_neurons(target, kept, layout.removable)
    result: Model = target.model
    return result
