"""A linear-chain conditional random field over a tagger's logits (Lafferty et al., 2001)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .layers import BoolArray, FloatArray, Layer, Shape
from .losses import SparseCategoricalCrossentropy

if TYPE_CHECKING:
    from .sequential import Sequential


class CRF(Layer):
    """The scores of a tag behind another one, beside a tagger's logits; the last layer, with `CRFLoss`.

    Logits pass through as they are. ``transitions`` (tags, tags) holds the score of tag j behind tag i. With
    it the loss is that of whole sequences, and `decode` finds the best one (Lample et al., 1603.01360).

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layers = [nn.LSTM(8, return_sequences=True), nn.TimeDistributed(nn.Dense(3)), nn.CRF()]
    >>> model = nn.Sequential(layers).build((5, 4), random_state=0)
    >>> crf = model.layers[-1]
    >>> crf.params["transitions"][...] = np.where(np.eye(3), 9, 0)  # tags that never change
    >>> tags = crf.decode(model.predict(np.random.default_rng(0).normal(size=(2, 5, 4))))
    >>> [len(set(row)) for row in tags.tolist()]
    [1, 1]
    """

    kind = "crf"

    def __init__(self) -> None:
        super().__init__()
        self.slopes: FloatArray | None = None
        """The gradient of the transitions, which `CRFLoss` finds."""

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) != 2:
            raise ValueError(f"{self.name}: expected samples of (steps, tags), got shape {input_shape}")
        tags = input_shape[1]
        self.params = {"transitions": rng.uniform(-0.1, 0.1, (tags, tags)).astype(np.float32)}
        return input_shape

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        return x

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self.slopes is None:
            raise RuntimeError(f"{self.name}: its gradient comes from CRFLoss, train the model with that")
        self.grads["transitions"] = self.slopes
        return dy

    def release(self) -> None:
        super().release()
        self.slopes = None

    def decode(self, logits: FloatArray, steps: BoolArray | None = None) -> NDArray[np.intp]:
        """The best sequence of tags (Viterbi's algorithm).

        Parameters
        ----------
        logits : ndarray of shape (n, steps, tags)
        steps : ndarray of bool, shape (n, steps), optional
            Which steps count; the others are passed over, and get tag 0.

        Returns
        -------
        ndarray of shape (n, steps)
        """
        n, length, tags = logits.shape
        counts = np.ones((n, length), bool) if steps is None else steps
        transitions = self.params["transitions"]
        score = np.zeros((n, tags), np.float32)
        before = np.empty((length, n, tags), np.intp)
        begun = np.zeros(n, bool)
        for t in range(length):
            through = score[:, :, None] + transitions
            best = through.max(axis=1)
            follows = (begun & counts[:, t])[:, None]
            # Where a step does not count, and at the first one that does, every tag is its own predecessor.
            before[t] = np.where(follows, through.argmax(axis=1), np.arange(tags))
            score = np.where(follows, best, score) + np.where(counts[:, t, None], logits[:, t], 0)
            begun |= counts[:, t]
        found = np.zeros((n, length), np.intp)
        tag = score.argmax(axis=1)
        for t in range(length - 1, -1, -1):
            found[:, t] = tag
            tag = before[t, np.arange(n), tag]
        return np.where(counts, found, 0)


class CRFLoss(SparseCategoricalCrossentropy):
    """Minus the log-likelihood of whole sequences of tags, per tag; for models that end in `CRF`.

    Parameters
    ----------
    ignore_index : int or None
        Labels of this value, negative, are passed over: the padding of sequences.

    Raises
    ------
    ValueError
        If `ignore_index` is not negative; on use, if the model does not end in a `CRF`.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> model = nn.Sequential([nn.LSTM(8, return_sequences=True), nn.TimeDistributed(nn.Dense(2)), nn.CRF()])
    >>> x = np.random.default_rng(0).normal(size=(64, 5, 3))
    >>> y = (np.arange(5) % 2)[None].repeat(64, axis=0)
    >>> history = model.fit(x, y, epochs=15, loss=nn.CRFLoss(), optimizer=nn.Adam(0.05), random_state=0)
    >>> model.evaluate(x, y)["accuracy"]
    1.0
    """

    name = "crf"

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index)
        self._layer: CRF | None = None

    def bind(self, model: Sequential) -> None:
        last = model.layers[-1]
        if not isinstance(last, CRF):
            raise ValueError(f"loss: {self.name} is for models that end in a CRF, not in {last.name}")
        self._layer = last

    @property
    def _crf(self) -> CRF:
        if self._layer is None:
            raise RuntimeError("CRFLoss belongs to no model yet")
        return self._layer

    def _counts(self, y: NDArray[Any]) -> BoolArray:
        return np.ones(y.shape, bool) if self.ignore_index is None else y != self.ignore_index

    def gradient(self, outputs: FloatArray, y: NDArray[Any]) -> tuple[float, FloatArray]:
        n, length, tags = outputs.shape
        counts, logits = self._counts(y), outputs.astype(np.float64)
        transitions = self._crf.params["transitions"].astype(np.float64)
        labels = np.where(counts, y, 0)
        # The latest step that counts before each step; -1 where there is none.
        places = np.where(counts, np.arange(length), -1)
        latest = np.maximum.accumulate(places, axis=1)
        previous = np.concatenate([np.full((n, 1), -1), latest[:, :-1]], axis=1)
        begins, follows = counts & (previous < 0), counts & (previous >= 0)

        # Forward: the log-sums over all beginnings that end in each tag.
        ahead = np.zeros((length, n, tags))
        state = np.zeros((n, tags))
        for t in range(length):
            through = _log_sum(state[:, :, None] + transitions, 1) + logits[:, t]
            state = np.where(follows[:, t, None], through, np.where(begins[:, t, None], logits[:, t], state))
            ahead[t] = state
        total = _log_sum(state, 1)
        empty = ~counts.any(axis=1)
        total[empty] = 0

        # Backward, with the marginals of tags and of pairs on the way.
        dy = np.zeros_like(logits)
        pairs = np.zeros((tags, tags))
        behind = np.zeros((n, tags))
        for t in range(length - 1, -1, -1):
            marginal = np.exp(ahead[t] + behind - total[:, None])
            dy[:, t] = np.where(counts[:, t, None], marginal, 0)
            onward = logits[:, t] + behind
            if t > 0:
                both = ahead[t - 1][:, :, None] + transitions + onward[:, None] - total[:, None, None]
                pairs += np.exp(both[follows[:, t]]).sum(axis=0)
            before = _log_sum(transitions + onward[:, None], 2)
            behind = np.where(follows[:, t, None], before, behind)

        # Less what is observed.
        row, step = np.nonzero(counts)
        dy[row, step, labels[row, step]] -= 1
        value = total.sum() - logits[row, step, labels[row, step]].sum()
        row, step = np.nonzero(follows)
        observed = (labels[row, previous[row, step]], labels[row, step])
        np.subtract.at(pairs, observed, 1)
        value -= transitions[observed].sum()
        size = max(1, int(counts.sum()))
        self._crf.slopes = (pairs / size).astype(np.float32)
        return float(value) / size, (dy / size).astype(np.float32)

    def accuracy(self, outputs: FloatArray, y: NDArray[Any]) -> float:
        counts = self._counts(y)
        found = self._crf.decode(outputs, counts)
        return float(np.count_nonzero((found == y) & counts)) / max(1, int(counts.sum()))


def _log_sum(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    most = x.max(axis=axis, keepdims=True)
    total: NDArray[np.float64] = np.log(np.exp(x - most).sum(axis=axis)) + most.squeeze(axis)
    return total
