"""What training returns."""

from __future__ import annotations


class History:
    """The logs of a training run.

    Attributes
    ----------
    epochs : list of dict
        One dict per epoch: ``"epoch"`` from 0, ``"loss"``, ``"accuracy"`` where the loss has one, and the
        same with ``"val_"`` in front where there was validation data.

    Examples
    --------
    >>> from secateur.nn import History
    >>> History([{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}])["loss"]
    [2.0, 1.0]
    """

    def __init__(self, epochs: list[dict[str, float]]) -> None:
        self.epochs = epochs

    @property
    def history(self) -> dict[str, list[float]]:
        """Every metric's values, one per epoch, as in Keras."""
        names = dict.fromkeys(name for logs in self.epochs for name in logs if name != "epoch")
        return {name: self[name] for name in names}

    def __getitem__(self, metric: str) -> list[float]:
        return [logs[metric] for logs in self.epochs if metric in logs]

    def __len__(self) -> int:
        return len(self.epochs)

    def __repr__(self) -> str:
        last = ", ".join(f"{k}={v:.4g}" for k, v in self.epochs[-1].items()) if self.epochs else ""
        return f"History({len(self.epochs)} epochs; last: {last})" if last else "History(0 epochs)"
