"""Layer after layer, in the model's order: what is left of one makes up for what it lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .calibration import Calibration, Doubles
from .granularity import Blocks, Pattern, Weights
from .models.view import BoolArray, FloatArray, ModelView
from .reconstruction import reconstruct
from .removal import WeightRemoval
from .scoring import Gradients, Scorer


class LayerwiseRemoval(WeightRemoval):
    """As `WeightRemoval`, and every layer is corrected on calibration data, before the next one is looked at.

    So a layer is given what the pruned layers before it make, and aims at what it made before pruning. Of the
    model there are two, before and after; of the data a batch, and of one layer its moments.

    Parameters
    ----------
    view, names, granularity, scope, scorer, sparsity, threshold
        As for `WeightRemoval`.
    calibration : Calibration
    weights, biases : bool
        What is corrected: the weights that stay, see `reconstruct`, biases by the mean error of the output
        (Nagel et al., arXiv 1906.04721, §4.2), or both, which then are solved for together.
    """

    def __init__(
        self,
        view: ModelView,
        names: Sequence[str],
        granularity: Weights | Blocks | Pattern,
        scope: str,
        scorer: Scorer,
        sparsity: float | None,
        threshold: float | None,
        calibration: Calibration,
        *,
        weights: bool,
        biases: bool,
    ) -> None:
        super().__init__(view, names, granularity, scope, scorer, sparsity, threshold)
        self.calibration, self._weights, self._biases = calibration, weights, biases

    def step(self, share: float, gradients: Gradients | None, rng: np.random.Generator) -> None:
        before = self.view.clone()
        masks = self.chosen(share, gradients, rng)
        for name in self.names:
            self._correct(name, masks[name], before)

    def _correct(self, name: str, mask: BoolArray, before: ModelView) -> None:
        """Take weights of one tensor away; how many of them, `mask` says."""
        view, tensor = self.view, before.parameters()[name]
        biases = self._biases and view.add_bias(name, np.zeros(len(tensor), np.float32))
        moments = self.calibration.moments(view, before, name)
        if self._weights:
            keep, scope = int(np.count_nonzero(mask)), "output" if self.scope == "output" else "layer"
            solved = moments.centred() if biases else moments
            alive = view.masks().get(name)
            weights, mask = reconstruct(tensor, solved, alive, keep, self.granularity, scope)
            view.replace({name: weights})
        view.set_masks({name: mask})
        if biases:
            wanted = _outputs(tensor, moments.mean_before)
            view.add_bias(name, wanted - _outputs(view.parameters()[name], moments.mean))


def _outputs(tensor: FloatArray, inputs: Doubles) -> FloatArray:
    """What a tensor gives for one input of each group: a number for each output."""
    matrices = tensor.reshape(len(inputs), -1, inputs.shape[1])
    outputs: FloatArray = (matrices @ inputs[:, :, None]).ravel().astype(np.float32)
    return outputs
