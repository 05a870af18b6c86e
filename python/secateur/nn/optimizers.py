"""Optimizers. Their steps run in the core, one pass over memory; masked weights and slots stay exactly 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import _core
from .layers import BoolArray, FloatArray, in_range


class Optimizer:
    """Base of the optimizers.

    Attributes
    ----------
    learning_rate : float
        May be changed between steps.
    iterations : int
        Steps done so far.
    slots : dict of str to dict of str to ndarray
        What the optimizer remembers of every parameter, by the slot's and the parameter's name.
    """

    name: ClassVar[str]
    slot_names: ClassVar[tuple[str, ...]]

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = in_range("learning_rate", learning_rate, 0.0, np.inf)
        self.iterations = 0
        self.slots: dict[str, dict[str, FloatArray]] = {slot: {} for slot in self.slot_names}

    def step(
        self,
        params: Mapping[str, FloatArray],
        grads: Mapping[str, FloatArray],
        masks: Mapping[str, BoolArray] | None = None,
    ) -> None:
        """Change `params` in place; where a mask is False, the weight and what is remembered of it become 0.

        Raises
        ------
        ValueError
            If the optimizer remembers a parameter of that name with another shape.
        """
        for slot in self.slot_names:
            memory = self.slots[slot]
            for name, param in params.items():
                if name not in memory:
                    memory[name] = np.zeros_like(param)
                elif memory[name].shape != param.shape:
                    raise ValueError(
                        f"optimizer: it remembers {name} with shape {memory[name].shape}, now {param.shape}; "
                        "use a new optimizer"
                    )
        self.iterations += 1
        for name, param in params.items():
            self._update(name, param, grads[name], None if masks is None else masks.get(name))

    def _update(self, name: str, param: FloatArray, grad: FloatArray, mask: BoolArray | None) -> None:
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: name, config, iterations, and copies of the slots."""
        slots = {slot: {k: v.copy() for k, v in memory.items()} for slot, memory in self.slots.items()}
        return {"name": self.name, "config": self.config(), "iterations": self.iterations, "slots": slots}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, as `state_dict` made it.

        Raises
        ------
        ValueError
            If it belongs to another kind of optimizer.
        """
        if state.get("name") != self.name:
            raise ValueError(f"optimizer: the state belongs to {state.get('name')!r}, this is {self.name!r}")
        for key, value in state["config"].items():
            setattr(self, key, value)
        self.iterations = int(state["iterations"])
        self.slots = {
            slot: {k: np.array(v, np.float32) for k, v in state["slots"].get(slot, {}).items()}
            for slot in self.slot_names
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


class Adam(Optimizer):
    """Adam (Kingma & Ba, arXiv 1412.6980).

    Parameters
    ----------
    learning_rate : float
        At least 0.
    beta1, beta2 : float
        Decay of the first and second moment, in [0, 1).
    epsilon : float
        Added to the second moment's root.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> w = {"w": np.array([1.0, 0.0], np.float32)}
    >>> nn.Adam(0.1).step(w, {"w": np.ones(2, np.float32)}, {"w": np.array([True, False])})
    >>> w["w"].round(6).tolist()[1], bool(abs(w["w"][0] - 0.9) < 1e-6)
    (0.0, True)
    """

    name = "adam"
    slot_names = ("m", "v")

    def __init__(
        self, learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__(learning_rate)
        self.beta1 = in_range("beta1", beta1, 0.0, 1.0)
        self.beta2 = in_range("beta2", beta2, 0.0, 1.0)
        self.epsilon = in_range("epsilon", epsilon, 0.0, np.inf)

    def _update(self, name: str, param: FloatArray, grad: FloatArray, mask: BoolArray | None) -> None:
        _core.adam_step(
            param,
            grad,
            self.slots["m"][name],
            self.slots["v"][name],
            mask,
            step=self.iterations,
            learning_rate=self.learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
        )

    def config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "epsilon": self.epsilon,
        }


class SGD(Optimizer):
    """Stochastic gradient descent: v ← momentum·v + g, w ← w − learning_rate·v.

    Parameters
    ----------
    learning_rate : float
        At least 0.
    momentum : float
        In [0, 1).
    nesterov : bool
        Look ahead: w ← w − learning_rate·(g + momentum·v) with the new v.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> w = {"w": np.array([1.0], np.float32)}
    >>> nn.SGD(0.5).step(w, {"w": np.ones(1, np.float32)})
    >>> w["w"]
    array([0.5], dtype=float32)
    """

    name = "sgd"
    slot_names = ("velocity",)

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(learning_rate)
        self.momentum = in_range("momentum", momentum, 0.0, 1.0)
        self.nesterov = bool(nesterov)

    def _update(self, name: str, param: FloatArray, grad: FloatArray, mask: BoolArray | None) -> None:
        _core.sgd_step(
            param,
            grad,
            self.slots["velocity"][name],
            mask,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )

    def config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, "momentum": self.momentum, "nesterov": self.nesterov}


OPTIMIZERS: dict[str, type[Adam | SGD]] = {"adam": Adam, "sgd": SGD}


def get_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """A new optimizer of that name, or `optimizer` itself; a ValueError lists the choices.

    Examples
    --------
    >>> from secateur.nn.optimizers import get_optimizer
    >>> get_optimizer("sgd")
    SGD(learning_rate=0.01, momentum=0.0, nesterov=False)
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        choices = ", ".join(OPTIMIZERS)
        raise ValueError(f"optimizer: unknown optimizer {optimizer!r}; choose from {choices} or an object")
    return OPTIMIZERS[optimizer]()
