"""Reports of taggers: by token against scikit-learn, by entity against counting."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import classification_report

from secateur.conll import entities
from secateur.reporting.tagging import entity_scores, format_report, token_report

TAGS = ["O", "B-creative-work", "I-creative-work", "B-group", "I-group", "B-person", "I-person"]
NONE = {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0}


def sklearn(true, predicted, labels, **options):
    return classification_report(true, predicted, labels=labels, digits=4, zero_division=0, **options)


@pytest.mark.parametrize("seed", range(40))
def test_tokens_as_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 7, 100, 5000]))
    # Some tags never occur, some are never predicted.
    true = rng.choice(TAGS, n, p=rng.dirichlet(np.full(len(TAGS), 0.3))).tolist()
    noise = rng.choice(TAGS, n, p=rng.dirichlet(np.full(len(TAGS), 0.3)))
    predicted = np.where(rng.random(n) < rng.random(), true, noise).tolist()
    # Without a tag that occurs, or scikit-learn has an accuracy for the micro average.
    labels = [tag for tag in rng.permutation(TAGS).tolist() if tag != true[0]]
    report = token_report(true, predicted, labels)
    # Where no token is right, scikit-learn writes the support as a fraction, 5.0.
    text = re.sub(r"(\d+)\.0$", r"  \1", sklearn(true, predicted, labels), flags=re.MULTILINE)
    assert format_report(report) == text
    expected = sklearn(true, predicted, labels, output_dict=True)
    assert list(report) == list(expected)
    for name, row in expected.items():
        assert report[name] == pytest.approx(row, rel=1e-12)


def test_with_all_tags_the_micro_average_is_the_accuracy():
    rng = np.random.default_rng(0)
    true, predicted = (rng.choice(TAGS, 500).tolist() for _ in range(2))
    report = token_report(true, predicted, TAGS)
    expected = sklearn(true, predicted, TAGS, output_dict=True)
    accuracy = expected.pop("accuracy")
    assert report.pop("micro avg") == pytest.approx(
        {"precision": accuracy, "recall": accuracy, "f1-score": accuracy, "support": 500}
    )
    for name, row in expected.items():
        assert report[name] == pytest.approx(row, rel=1e-12)


def test_long_names_and_many_digits():
    labels = ["B-a-type-with-a-long-name", "x"]
    true, predicted = ["x", "x", "O"], ["x", labels[0], "x"]
    options = {"labels": labels, "zero_division": 0}
    for digits in (0, 1, 2, 30):
        text = format_report(token_report(true, predicted, labels), digits=digits)
        assert text == classification_report(true, predicted, digits=digits, **options)


def test_no_tokens_at_all():
    assert token_report([], [], ["B-a"]) == dict.fromkeys(
        ("B-a", "micro avg", "macro avg", "weighted avg"), NONE
    )


def test_tokens_that_do_not_fit():
    with pytest.raises(ValueError, match="predicted: expected 2 tags, got 1"):
        token_report(["O", "O"], ["O"], ["O"])
    for labels in ([], ["O", "O"]):
        with pytest.raises(ValueError, match="labels: expected"):
            token_report(["O"], ["O"], labels)


def test_entities_by_hand():
    true = [["B-a", "I-a", "O", "B-b"], ["B-a", "B-a"], ["O"]]
    predicted = [["B-a", "I-a", "O", "B-c"], ["B-a", "I-a"], ["I-a"]]
    report = entity_scores(true, predicted)
    assert list(report) == ["a", "b", "c", "micro avg", "macro avg", "weighted avg"]
    assert report["a"] == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 3, "f1-score": 1 / 3, "support": 3}
    )
    assert report["b"] == {**NONE, "support": 1}
    assert report["c"] == NONE
    assert report["micro avg"] == {"precision": 0.25, "recall": 0.25, "f1-score": 0.25, "support": 4}
    assert report["macro avg"] == pytest.approx(
        {"precision": 1 / 9, "recall": 1 / 9, "f1-score": 1 / 9, "support": 4}
    )
    assert report["weighted avg"]["f1-score"] == pytest.approx(0.25)
    lines = format_report(report).splitlines()
    assert lines[2].split() == ["a", "0.3333", "0.3333", "0.3333", "3"]
    assert len(lines) == 2 + 3 + 1 + 3


def test_a_shifted_end_or_another_type_is_wrong():
    true = [["O", "B-a", "I-a", "O"]]
    for tags in ("O B-a O O", "O B-a I-a I-a", "I-a I-a I-a O", "O B-b I-b O", "O B-a B-a O", "O O O O"):
        assert entity_scores(true, [tags.split()])["micro avg"]["f1-score"] == 0
    # How the first token is tagged does not matter where there is nothing before it.
    assert entity_scores(true, [["O", "I-a", "I-a", "O"]])["micro avg"]["f1-score"] == 1


@given(st.lists(st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), max_size=8), max_size=6))
def test_entities_by_counting(sentences):
    true = [[a for a, _ in sentence] for sentence in sentences]
    predicted = [[b for _, b in sentence] for sentence in sentences]
    everywhere = [
        {(i, *e) for i, tags in enumerate(side) for e in entities(tags)} for side in (true, predicted)
    ]
    report = entity_scores(true, predicted)
    types = sorted({e[1] for side in everywhere for e in side})
    assert list(report) == [*types, "micro avg", "macro avg", "weighted avg"]
    for name in (*types, "micro avg"):
        of_type = [{e for e in side if name in ("micro avg", e[1])} for side in everywhere]
        right, row = len(of_type[0] & of_type[1]), report[name]
        assert row["support"] == len(of_type[0])
        assert row["recall"] == (right / len(of_type[0]) if of_type[0] else 0)
        assert row["precision"] == (right / len(of_type[1]) if of_type[1] else 0)
        both = row["precision"] + row["recall"]
        assert row["f1-score"] == pytest.approx(2 * row["precision"] * row["recall"] / both if both else 0)
    f1 = [report[name]["f1-score"] for name in types]
    assert report["macro avg"]["f1-score"] == pytest.approx(np.mean(f1) if f1 else 0)


def test_sentences_that_do_not_fit():
    with pytest.raises(ValueError, match="predicted_tags: expected 1 sentences, got 2"):
        entity_scores([["O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match=r"predicted_tags\[1\]: expected 2 tags, got 1"):
        entity_scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match="expected O, B-type or I-type"):
        entity_scores([["O"]], [["X"]])
