"""The Rigged Lottery: what grows is where the loss would fall fastest."""

from __future__ import annotations

import math

import numpy as np

from ..models.view import ModelView
from .exchange import Exchange, Scores


class RigL(Exchange):
    """The Rigged Lottery: the smallest weights are dropped, and those with the largest gradients grow.

    Training begins with random masks of the target sparsity. The share that is exchanged falls from `drop` to
    0 along half a cosine; the gradients are those of the batch before the update. Weights that grow start
    from 0, and what is dropped does not grow back in the same update. Masks that the model had are replaced.

    Parameters
    ----------
    sparsity : float
        The fraction of the prunable weights that is missing.
    drop : float
        α, the share of the weights left that an update exchanges at first, in (0, 1].
    every : int
        ΔT, batches between two updates.
    end : int or float
        The moment of the last update: a number of batches, or a share of the training as a float.
    scope : {"erk", "layer", "global"}
        How sparse each tensor is: by the Erdős–Rényi-kernel rule, all equally, or whatever the exchange over
        all of them leads to.
    granularity, include, exclude
        As for `prune`; no neurons. Blocks are exchanged whole; within N:M a weight for one of its group.

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    References
    ----------
    Evci et al., Rigging the Lottery: Making All Tickets Winners. ICML 2020, arXiv 1911.11134.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.RigL(0.9, drop=0.3).scope
    'erk'
    """

    def share(self, step: int) -> float:
        return self.drop / 2 * (1 + math.cos(math.pi * step / self._last))

    def growth(self, model: ModelView, rng: np.random.Generator) -> Scores:
        gradients = model.gradients()
        return {name: np.abs(gradients[name]) for name in self.names}
