"""How well a tagger does: by tag like scikit-learn's ``classification_report``, by entity like conlleval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from ..conll import Entity, entities

__all__ = ["Report", "entity_scores", "format_report", "token_report"]

Report: TypeAlias = dict[str, dict[str, float]]
"""By tag or type, then by average: precision, recall, f1-score and support."""

_SCORES = ("precision", "recall", "f1-score")
_AVERAGES = ("micro avg", "macro avg", "weighted avg")


def token_report(true: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> Report:
    """Precision, recall, F1 and support of every tag, and their averages.

    Parameters
    ----------
    true, predicted : sequence of str
        The tag of every token, sentences one after the other.
    labels : sequence of str
        The tags that get a row, in this order, each once. Mostly all but ``O``, which would hide the others
        in the averages; tokens with a tag that is not here count where they are taken for one that is.

    Returns
    -------
    dict of str to dict
        ``precision``, ``recall``, ``f1-score`` and ``support`` of each label, then of ``micro avg`` (all
        decisions together), ``macro avg`` (the mean of the rows) and ``weighted avg`` (the mean weighted by
        support). It is what scikit-learn's ``classification_report`` gives with ``output_dict=True`` and
        ``zero_division=0``, but always with the micro average: scikit-learn calls it ``accuracy``, and
        leaves out its precision and recall, where `labels` are all tags there are. What divides by 0 is 0.

    Raises
    ------
    ValueError
        If there are not as many true as predicted tags, or `labels` is empty or has one twice.

    Examples
    --------
    >>> from secateur.reporting.tagging import format_report, token_report
    >>> true = ["O", "B-person", "I-person", "O", "B-person"]
    >>> predicted = ["O", "B-person", "O", "O", "B-person"]
    >>> print(format_report(token_report(true, predicted, ["B-person", "I-person"])))
                  precision    recall  f1-score   support
    <BLANKLINE>
        B-person     1.0000    1.0000    1.0000         2
        I-person     0.0000    0.0000    0.0000         1
    <BLANKLINE>
       micro avg     1.0000    0.6667    0.8000         3
       macro avg     0.5000    0.5000    0.5000         3
    weighted avg     0.6667    0.6667    0.6667         3
    <BLANKLINE>
    """
    if len(true) != len(predicted):
        raise ValueError(f"predicted: expected {len(true)} tags, got {len(predicted)}")
    if not labels or len(set(labels)) != len(labels):
        raise ValueError("labels: expected at least one, each only once")
    hits = Counter(tag for tag, guess in zip(true, predicted, strict=True) if tag == guess)
    return _report(labels, hits, Counter(predicted), Counter(true))


def entity_scores(true_tags: Sequence[Sequence[str]], predicted_tags: Sequence[Sequence[str]]) -> Report:
    """Precision, recall, F1 and support of whole entities, as conlleval counts them.

    An entity is right if one of the same type has the same first and the same last token.

    Parameters
    ----------
    true_tags, predicted_tags : sequence of (sequence of str)
        For each sentence the tags of all its tokens: ``O``, ``B-type`` or ``I-type``. Where a sentence was
        cut for the model, the rest is predicted ``O``.

    Returns
    -------
    dict of str to dict
        Laid out as by `token_report`, for `format_report`: a row for each type, those that were only
        predicted among them, then the averages. conlleval's overall scores are ``micro avg``.

    Raises
    ------
    ValueError
        If the sentences or their tags are not as many, or one is no such tag.

    Examples
    --------
    >>> from secateur.reporting.tagging import entity_scores
    >>> true = [["B-person", "I-person", "O", "B-group"]]
    >>> scores = entity_scores(true, [["B-person", "O", "O", "B-group"]])
    >>> scores["group"]
    {'precision': 1.0, 'recall': 1.0, 'f1-score': 1.0, 'support': 1}
    >>> scores["micro avg"]
    {'precision': 0.5, 'recall': 0.5, 'f1-score': 0.5, 'support': 2}
    """
    if len(true_tags) != len(predicted_tags):
        raise ValueError(f"predicted_tags: expected {len(true_tags)} sentences, got {len(predicted_tags)}")
    hits: Counter[str] = Counter()
    found: Counter[str] = Counter()
    support: Counter[str] = Counter()
    for i, (true, predicted) in enumerate(zip(true_tags, predicted_tags, strict=True)):
        if len(true) != len(predicted):
            raise ValueError(f"predicted_tags[{i}]: expected {len(true)} tags, got {len(predicted)}")
        right, guessed = entities(true), entities(predicted)
        support.update(map(_type, right))
        found.update(map(_type, guessed))
        hits.update(map(_type, set(right) & set(guessed)))
    return _report(sorted(support | found), hits, found, support)


def _type(entity: Entity) -> str:
    return entity[0]


def _report(labels: Sequence[str], hits: Counter[str], found: Counter[str], support: Counter[str]) -> Report:
    rows = {label: _scores(hits[label], found[label], support[label]) for label in labels}
    total = sum(support[label] for label in labels)
    averages = [_scores(sum(hits[l] for l in labels), sum(found[l] for l in labels), total)]
    for weights in (np.ones(len(rows)), np.array([row["support"] for row in rows.values()])):
        mean: dict[str, float] = dict.fromkeys(_SCORES, 0.0)
        if weights.sum():
            values = [[row[score] for score in _SCORES] for row in rows.values()]
            mean = dict(zip(_SCORES, np.average(values, axis=0, weights=weights).tolist(), strict=True))
        averages.append({**mean, "support": total})
    return {**rows, **dict(zip(_AVERAGES, averages, strict=True))}


def _scores(hits: int, found: int, support: int) -> dict[str, float]:
    return {
        "precision": hits / found if found else 0.0,
        "recall": hits / support if support else 0.0,
        "f1-score": 2 * hits / (found + support) if found + support else 0.0,
        "support": support,
    }


def format_report(report: Mapping[str, Mapping[str, float]], digits: int = 4) -> str:
    """The text of a report, laid out as scikit-learn's ``classification_report``.

    Parameters
    ----------
    report : mapping
        Of `token_report` or `entity_scores`.
    digits : int
        Digits after the point.

    Returns
    -------
    str
        Several lines, each with its end; see `token_report` for how they look.
    """
    width = max(digits, *map(len, report))
    lines = [" " * width + " " + "".join(f" {head:>9}" for head in (*_SCORES, "support")), ""]
    for name, row in report.items():
        if name == _AVERAGES[0]:
            lines.append("")
        scores = "".join(f" {row[score]:>9.{digits}f}" for score in _SCORES)
        lines.append(f"{name:>{width}} {scores} {row['support']:>9}")
    return "\n".join(lines) + "\n"
