"""Sparsity per tensor."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secateur import budgets, masking
from secateur.granularity import Blocks, Weights

shapes = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple),
    min_size=1,
    max_size=6,
)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_keep_count_rounds_half_to_even(n, sparsity):
    removed = n - budgets.keep_count(n, sparsity)
    exact = Fraction(sparsity * n)
    assert abs(removed - exact) <= Fraction(1, 2)
    if abs(removed - exact) == Fraction(1, 2):
        assert removed % 2 == 0


@given(shapes, st.floats(0, 1))
def test_uniform_gives_every_tensor_the_same(shapes, sparsity):
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    kept = budgets.uniform(sizes, sparsity)
    assert all(abs(sizes[name] - count - sparsity * sizes[name]) <= 0.5 for name, count in kept.items())


@given(shapes, st.floats(0, 1))
def test_erk_is_exact_in_total_and_within_every_tensor(shapes, sparsity):
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    kept = budgets.erk(shapes, sparsity)
    assert sum(kept.values()) == budgets.keep_count(sum(sizes.values()), sparsity)
    assert all(0 <= kept[name] <= sizes[name] for name in shapes)
    exact = budgets.erk_densities(shapes, 1 - sparsity)
    assert all(abs(kept[name] - exact[name] * sizes[name]) <= 1 + 1e-6 for name in shapes)


def test_erk_densities_follow_the_paper():
    shapes = {"a": (100, 100), "b": (50, 200, 3, 3)}
    density = budgets.erk_densities(shapes, 0.05)
    ratio = (200 / 10_000) / (256 / 90_000)
    assert density["a"] / density["b"] == pytest.approx(ratio)
    assert density["a"] * 10_000 + density["b"] * 90_000 == pytest.approx(5_000)
    # What does not fit into a small tensor goes to the others.
    full = budgets.erk_densities({"small": (2, 2), "large": (100, 100)}, 0.5)
    assert full["small"] == 1
    assert full["large"] * 10_000 + 4 == pytest.approx(0.5 * 10_004)


def test_erk_densities_fall_with_the_total():
    shapes = {"a": (32, 1, 3, 3), "b": (64, 32, 3, 3), "c": (64, 1600), "d": (10, 64)}
    rows = [budgets.erk_densities(shapes, d) for d in np.linspace(1, 0, 50)]
    for before, after in itertools.pairwise(rows):
        assert all(after[name] <= before[name] + 1e-12 for name in shapes)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_lamp_is_each_square_over_those_not_smaller(values):
    scores = np.array(values, float)
    found = budgets.lamp({"w": scores})["w"]
    for i, score in enumerate(scores):
        rest = sum(v * v for j, v in enumerate(values) if (v * v, -j) >= (values[i] ** 2, -i))
        assert found[i] == pytest.approx(score**2 / rest if rest else 0.0)


def test_lamp_leaves_decided_weights_alone():
    found = budgets.lamp({"w": np.array([np.inf, 2.0, -np.inf, 1.0])})["w"]
    assert found.tolist() == [np.inf, 1.0, -np.inf, 0.2]


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "0.5", None, True])
def test_sparsity_is_checked(value):
    with pytest.raises(ValueError, match=r"sparsity: expected a number in \[0, 1\], got"):
        budgets.check_sparsity(value)


def test_unknown_scope_lists_the_choices():
    with pytest.raises(ValueError, match="scope: unknown name 'all'; choose from erk, global, lamp, layer"):
        budgets.check_scope("all")


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.integers(0, 5)),
    st.floats(0, 1),
)
def test_output_gives_every_row_the_same_to_within_one(values, sparsity):
    mask = masking.choose({"w": values}, {}, Weights(), "output", sparsity)["w"]
    assert mask.sum() == budgets.keep_count(values.size, sparsity)
    counts = mask.sum(axis=1)
    assert counts.max() - counts.min() <= 1
    for row, kept in zip(values, mask, strict=True):
        assert not kept.any() or kept.all() or row[kept].min() >= row[~kept].max()


def test_output_makes_up_for_rows_that_have_less():
    alive = np.array([[True, False, False, False], [True] * 4])
    mask = masking.choose({"w": np.ones((2, 4))}, {"w": alive}, Weights(), "output", 0.5)["w"]
    assert mask.sum(axis=1).tolist() == [1, 3]


def test_output_rows_of_filters_and_blocks():
    values = np.arange(48.0).reshape(4, 3, 2, 2)
    mask = masking.choose({"w": values}, {}, Weights(), "output", 0.5)["w"]
    assert mask.sum(axis=(1, 2, 3)).tolist() == [6] * 4
    mask = masking.choose({"w": values}, {}, Blocks(2, 1), "output", 0.5)["w"]
    assert mask.sum(axis=(1, 2, 3)).tolist() == [6] * 4


@given(
    hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(0, 1e6, width=32)),
    st.sampled_from([0.25, 1, 8]),
)
def test_relative_scores_know_no_scale(values, scale):
    found = budgets.relative({"a": values, "b": scale * values})
    np.testing.assert_array_equal(found["a"], found["b"])
    assert np.sum(found["a"] ** 2) == pytest.approx(1 if values.any() else 0)
    assert np.array_equal(np.argsort(found["a"], kind="stable"), np.argsort(values, kind="stable"))


def test_relative_leaves_the_infinite_scores():
    found = budgets.relative({"w": np.array([[np.inf, 3.0], [-np.inf, 4.0]])})["w"]
    assert found.tolist() == [[np.inf, 0.6], [-np.inf, 0.8]]
    assert budgets.relative({"w": np.zeros(3)})["w"].tolist() == [0, 0, 0]
