"""Sparse Evolutionary Training: what grows is drawn by lot."""

from __future__ import annotations

import numpy as np

from ..models.view import ModelView
from .exchange import Exchange, Scores


class SET(Exchange):
    """Sparse Evolutionary Training: the smallest weights are dropped, others grow at random.

    Training begins with random masks of the target sparsity, so that every step, from the first on, is as
    sparse as the result. Weights that grow start from 0, and by magnitude alone it is decided what is dropped
    (the paper drops as many of the smallest positive as of the largest negative ones). Masks that the model
    had are replaced.

    Parameters
    ----------
    sparsity : float
        The fraction of the prunable weights that is missing.
    drop : float
        ζ, the share of the weights left that an update exchanges, in (0, 1].
    every : int
        Batches between two updates; the paper's is an epoch.
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
    Mocanu et al., Scalable training of artificial neural networks with adaptive sparse connectivity inspired
    by network science. Nature Communications 9, 2383 (2018), arXiv 1707.04780.

    Examples
    --------
    >>> import numpy as np
    >>> import secateur as sc
    >>> model = sc.nn.Sequential([sc.nn.Dense(16, activation="relu"), sc.nn.Dense(2)]).build((4,), 0)
    >>> x = np.random.default_rng(0).normal(size=(256, 4))
    >>> pruner = sc.DynamicPruner(sc.SET(0.75, every=4))
    >>> _ = model.fit(x, (x[:, 0] > 0).astype(int), epochs=5, callbacks=[pruner], random_state=0)
    >>> {record["sparsity"] for record in pruner.history}
    {0.75}
    """

    def growth(self, model: ModelView, rng: np.random.Generator) -> Scores:
        return self._lots(model, rng)
