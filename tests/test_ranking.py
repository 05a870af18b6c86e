"""Single weights chosen without arrays of scores are those chosen by scores, ties, zeros and NaN included."""

import numpy as np
import pytest

from secateur import masking, nn, ranking
from secateur.budgets import keep_count
from secateur.granularity import Weights
from secateur.models.view import view
from secateur.scoring import Scorer

CRITERIA = ["l1", "l2", "gradient", "taylor", "combined"]
SCOPES = ["global", "layer", "erk", "lamp"]


def few_values(seed, removed, zeros):
    """A model of few distinct weights, a part of it removed, and its gradients."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential([nn.Conv2D(6, 3), nn.Flatten(), nn.Dense(20), nn.Dense(7)]).build((2, 5, 5), 0)
    values = np.array([-1, -0.5, 0.5, 1, 1, 2], np.float32)
    for name in model.prunable():
        tensor = model.parameters()[name]
        tensor[...] = np.where(rng.random(tensor.shape) < zeros, 0, rng.choice(values, tensor.shape))
    # One tensor has never been pruned.
    shapes = {name: model.parameters()[name].shape for name in model.prunable()[1:]}
    model.set_masks({name: rng.random(shape) >= removed for name, shape in shapes.items()} if removed else {})
    tensors = view(model).parameters()
    return model, {name: rng.choice(np.abs(values), tensor.shape) for name, tensor in tensors.items()}


def by_scores(model, gradients, scope, sparsity, scorer):
    scores = scorer.scores(model, list(model.parameters()), gradients, np.random.default_rng(0))
    return masking.choose(scores, model.masks(), Weights(), scope, sparsity, scorer.rms)


def chosen(model, gradients, scope, sparsity, scorer):
    names, rng = list(model.parameters()), np.random.default_rng(0)
    return ranking.choose(model, names, gradients, Weights(), scope, sparsity, scorer, rng)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("zeros", [0.0, 0.3])
def test_the_same_weights_stay_as_by_scores(criterion, scope, zeros):
    scorer = Scorer(criterion)
    for seed, removed in enumerate([0.0, 0.2, 0.6]):
        model, gradients = few_values(seed, removed, zeros)
        for sparsity in (0, 0.1, 0.5, 0.7, 0.75, 0.9, 1):
            wanted = by_scores(view(model), gradients, scope, sparsity, scorer)
            found = chosen(view(model), gradients, scope, sparsity, scorer)
            assert list(found) == list(wanted)
            assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("sparsity", [0, 0.1, 0.8])
def test_scores_are_not_made(criterion, sparsity, monkeypatch):
    def refuse(*_):
        raise AssertionError("scores were made")

    model, gradients = few_values(0, 0.5, 0.3)
    monkeypatch.setattr(Scorer, "scores", refuse)
    chosen(view(model), gradients, "global", sparsity, Scorer(criterion))


def test_a_mask_may_hold_any_bytes():
    model, gradients = few_values(0, 0.5, 0.0)
    wanted = chosen(view(model), gradients, "global", 0.8, Scorer("combined"))
    model.set_masks({name: (mask.view(np.uint8) * 2).view(bool) for name, mask in model.masks.items()})
    found = chosen(view(model), gradients, "global", 0.8, Scorer("combined"))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("where", ["weight", "gradient", "gradient of a removed weight"])
def test_a_nan_is_refused_as_by_scores(criterion, where):
    model, gradients = few_values(0, 0.5, 0.0)
    mask = model.masks["dense.weight"]
    at = np.argmax(~mask if "removed" in where else mask)
    array = model.parameters()["dense.weight"] if where == "weight" else gradients["dense.weight"]
    array.flat[at] = np.nan
    messages = []
    for choose in (by_scores, chosen):
        with pytest.raises(ValueError, match=r"^dense.weight: .*is NaN") as error:
            choose(view(model), gradients, "global", 0.8, Scorer(criterion))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_what_thresholds_tell_changes_no_mask():
    # A guess that holds, one that is off, an impossible one, and sparsity that jumps.
    rng = np.random.default_rng(0)
    net = nn.Sequential([nn.Dense(90), nn.Dense(40)]).build((50,), 0)
    seen, model = ranking.Thresholds(), view(net)
    names, scorer = list(model.parameters()), Scorer()
    guessed = 0
    for sparsity in (0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.5, 0.52, 0.54, 0.56, 0.58, 0.9, 0.91, 1.0, 1.0, 1.0):
        for tensor in model.parameters().values():
            tensor += 1e-4 * rng.standard_normal(tensor.shape, np.float32)
        net.set_masks(net.masks)
        guessed += seen.near(names, keep_count(8100, sparsity))[0] is not None
        how = model, names, None, Weights(), "global", sparsity, scorer, rng
        masks, wanted = ranking.choose(*how, seen), ranking.choose(*how)
        assert all(np.array_equal(masks[name], wanted[name]) for name in names)
        model.set_masks(masks)
    assert guessed >= 5
    seen._seen[tuple(names)] = [(9, 1e30), (8, 1e30), (7, 1e30)]
    assert seen.near(names, 6)[0] == 1e30
    masks = ranking.choose(model, names, None, Weights(), "global", 1.0, scorer, rng, seen)
    assert not any(mask.any() for mask in masks.values())


def test_thresholds_follow_the_number_of_weights_that_are_kept():
    seen, names = ranking.Thresholds(), ("a", "b")
    for keep, score in ((100, 1.0), (90, 1.1), (70, 1.3)):
        assert seen.near(names, keep) == (None, 0.0)
        seen.note(names, keep, score)
    guess, within = seen.near(names, 65)
    assert guess == pytest.approx(1.35) and within == pytest.approx(1.35 * ranking.LEAST)
    assert seen.near(("a",), 65) == (None, 0.0)
    # As many as before: as far from the last as that is from the one before.
    for score in (1.31, 1.32, 1.33):
        seen.note(names, 65, score)
    assert seen.near(names, 65)[0] == pytest.approx(1.34)
    seen.note(names, 0, None)
    assert seen.near(names, 65) == (None, 0.0)
    for score in (1e308, -1e308, 1e308):
        seen.note(names, round(abs(score) / 1e307), score)
    assert seen.near(names, 10)[0] is None
