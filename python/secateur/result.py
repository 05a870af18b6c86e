"""What static pruning returns."""

from __future__ import annotations

from typing import Any

import numpy as np

from .measure import latencies, runner
from .models.view import BoolArray, ModelView


def sizes(view: ModelView) -> dict[str, int]:
    """Prunable weights, those that are not zero, and the multiply-adds of both for one sample."""
    tensors = view.parameters()
    nonzero = {name: int(np.count_nonzero(tensor)) for name, tensor in tensors.items()}
    return {
        "weights": sum(tensor.size for tensor in tensors.values()),
        "nonzero": sum(nonzero.values()),
        "macs": sum(view.positions(name) * tensor.size for name, tensor in tensors.items()),
        "nonzero_macs": sum(view.positions(name) * count for name, count in nonzero.items()),
    }


class PruneResult:
    """The outcome of `prune`.

    Attributes
    ----------
    model : model
        The pruned model: a new one, or the caller's if that was asked for.
    masks : dict of str to ndarray of bool
        For every prunable tensor of the model before: where weights were kept. Set on that model they give
        the same function as the result's, before fine-tuning, unless weights or biases made up for some.
    history : list of dict
        One per step, the first before pruning: ``"step"``, ``"sparsity"``, ``"weights"`` and ``"nonzero"``
        (prunable), ``"macs"`` and ``"nonzero_macs"`` (one sample), ``"seconds"``; where there was validation
        ``"score"`` and the seconds of inference ``"latency_1"`` and ``"latency_32"`` by batch size.
    """

    def __init__(
        self,
        model: Any,
        masks: dict[str, BoolArray],
        history: list[dict[str, Any]],
        final: dict[str, Any],
        before: ModelView,
        after: ModelView,
    ) -> None:
        self.model = model
        self.masks = masks
        self.history = history
        # `final`: the record of the model returned, which a stop rule may have taken from an earlier step.
        self._final, self._before, self._after = final, before, after

    @property
    def sparsity(self) -> float:
        """The fraction of the prunable weights that was removed."""
        total = sum(mask.size for mask in self.masks.values())
        return 1 - sum(int(np.count_nonzero(mask)) for mask in self.masks.values()) / max(1, total)

    def summary(self) -> str:
        """Before and after: every layer's shape and weights, then size, arithmetic, score, latency."""
        before, after = self._before, self._after
        rows = [("", "before", "after", "ratio")]
        tensors = after.parameters()
        for name, old in before.parameters().items():
            new = tensors[name]
            rows.append((f"{name} shape", "x".join(map(str, old.shape)), "x".join(map(str, new.shape)), ""))
            rows.append(_counts(f"{name} nonzero", int(np.count_nonzero(old)), int(np.count_nonzero(new))))
        old_sizes, new_sizes = sizes(before), sizes(after)
        rows.append(_counts("weights, nonzero", old_sizes["nonzero"], new_sizes["nonzero"]))
        rows.append(_counts("MACs per sample, nonzero", old_sizes["nonzero_macs"], new_sizes["nonzero_macs"]))
        if "score" in self._final:
            old_score, new_score = self.history[0]["score"], self._final["score"]
            rows.append(("score", f"{old_score:.4f}", f"{new_score:.4f}", f"{new_score - old_score:+.4f}"))
        for batch, times in latencies({"before": runner(before), "after": runner(after)}, before).items():
            was, now = (f"{latency.us:.0f} us" for latency in times.values())
            rows.append((f"latency at batch {batch}", was, now, f"{times['after'].speedup:.2f}x"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def _counts(label: str, before: int, after: int) -> tuple[str, str, str, str]:
    return label, f"{before:,}", f"{after:,}", f"{before / after:.2f}x" if after else "-"
