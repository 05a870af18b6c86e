"""Sketches of parts, merged in any order, against the selection that sees everything."""

import marshal
import pickle
import types
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secateur as sc
from secateur import _rounds

AWKWARD = [0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, 3.4028235e38, -1.1754944e-38]


def signed(weights, grads):
    """A criterion of a caller's own."""
    return weights


def run(parts, rng, most=12, **target):
    """The cut, by sketches of the parts merged pairwise in random order; and how many rounds that took."""
    sketch = sc.Sketch(**target)
    for rounds in range(1, most):
        answers = []
        for name, start, *arrays in parts:
            answers.append(sketch.empty())
            answers[-1].add(*arrays, name=name, start=start)
        while len(answers) > 1:
            one, other = (answers.pop(rng.integers(len(answers))) for _ in range(2))
            one.merge(pickle.loads(pickle.dumps(other)))
            answers.append(one)
        sketch.merge(answers[0])
        if cut := sketch.finish():
            return cut, rounds
        sketch = sketch.refine()
    raise AssertionError("no end")


def parts_of(tensors, rng, grads=None):
    """Every tensor in several parts."""
    parts = []
    for name, values in tensors.items():
        ends = np.sort(rng.integers(0, values.size + 1, 3))
        for first, last in zip([0, *ends], [*ends, values.size], strict=True):
            flat = [x.ravel()[first:last] for x in (values, *(() if grads is None else (grads[name],)))]
            parts.append((name, int(first), *flat))
    return parts


@given(
    st.lists(st.one_of(st.integers(-3, 3).map(float), st.sampled_from(AWKWARD)), min_size=1, max_size=120),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float32, np.float64, np.float16, ml_dtypes.bfloat16]),
)
def test_cut_of_parts_is_the_cut_of_all(values, seed, dtype):
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        whole = np.array(values).astype(dtype)
    cut = int(rng.integers(len(whole) + 1))
    tensors = {"b": whole[:cut], "B": whole[cut:].astype(rng.choice([np.float32, np.float64]))}
    k = int(rng.integers(len(whole) + 1))
    wanted = sc.topk_cut(tensors, k=k)
    found, _ = run(parts_of(tensors, rng), rng, k=k)
    assert found == wanted


@pytest.mark.parametrize("room", [2, 16])
def test_every_round_is_walked_when_there_is_little_room(monkeypatch, room):
    # Few steps a round: narrowing and placing both take several.
    monkeypatch.setattr(_rounds, "ROOM", room)
    monkeypatch.setattr(_rounds, "_SAMPLE", 64)
    monkeypatch.setattr(_rounds, "_PIECE", 37)
    rng = np.random.default_rng(room)
    for case in range(60):
        sizes = rng.integers(1, 700, 3)
        pool = [rng.normal(size=9), rng.normal(size=1000), np.zeros(1)][case % 3].astype(np.float32)
        tensors = {name: rng.choice(pool, size) for name, size in zip(["x", "y", "Z"], sizes, strict=True)}
        if case % 4 == 0:
            tensors["y"] = tensors["y"].astype(np.float64) + 1e-12
        k = int(rng.integers(1, sizes.sum() + 1))
        # Two steps halve the range each round.
        found, _ = run(parts_of(tensors, rng), rng, most=200, k=k)
        assert found == sc.topk_cut(tensors, k=k)


@pytest.mark.parametrize("criterion, lam", [("l2", 0.0), ("taylor", 0.0), ("combined", 0.7), (signed, 0.0)])
def test_criteria(criterion, lam):
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=(30, 41)).astype(np.float32) for name in "ab"}
    grads = {name: rng.normal(size=(30, 41)).astype(np.float32) for name in "ab"}
    rule = {"sparsity": 0.7, "criterion": criterion, "lam": lam}
    found, _ = run(parts_of(tensors, rng, grads), rng, **rule)
    assert found == sc.topk_cut(tensors, grads, **rule)
    masks = sc.prune_mask(tensors, grads, **rule)
    for name in tensors:
        np.testing.assert_array_equal(found.mask(tensors[name], grads[name], name=name), masks[name])


@pytest.mark.parametrize("kind", ["spread", "zeros", "bfloat16", "sorted", "constant"])
def test_large_tensors_take_few_rounds(kind):
    rng = np.random.default_rng(1)
    tensors = {name: rng.normal(size=1_000_003).astype(np.float32) for name in "ab"}
    for name, values in tensors.items():
        if kind == "zeros":
            values[rng.random(values.size) < 0.8] = 0
        elif kind == "bfloat16":
            tensors[name] = values.astype(ml_dtypes.bfloat16)
        elif kind == "sorted":
            values.sort()
        elif kind == "constant":
            values[:] = 2
    for k in (1, 20_000, 1_000_000, 1_999_999, 2_000_006):
        found, rounds = run(parts_of(tensors, rng), rng, k=k)
        assert found == sc.topk_cut(tensors, k=k)
        assert rounds <= 6
    assert len(pickle.dumps(sketch_of(tensors))) < 3_000_000


def sketch_of(tensors):
    sketch = sc.Sketch(k=1_000_000)
    for name, values in tensors.items():
        sketch.add(values, name=name)
    return sketch


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="k, sparsity: give exactly one"):
        sc.Sketch()
    with pytest.raises(ValueError, match=r"k: expected 0 to .* got -1"):
        sc.Sketch(k=-1)
    with pytest.raises(ValueError, match="criterion: 'random'"):
        sc.Sketch(k=1, criterion="random")
    with pytest.raises(ValueError, match="sparsity"):
        sc.Sketch(sparsity=2.0)
    sketch = sc.Sketch(k=5)
    with pytest.raises(ValueError, match="grads"):
        sc.Sketch(k=5, criterion="taylor").add([1.0])
    with pytest.raises(ValueError, match="start: expected at least 0, got -1"):
        sketch.add([1.0], start=-1)
    with pytest.raises(TypeError, match="name: expected a str"):
        sketch.add([1.0], name=3)
    with pytest.raises(TypeError, match="other: expected a Sketch"):
        sketch.merge(3)
    with pytest.raises(ValueError, match="other: it belongs to another round"):
        sketch.merge(sc.Sketch(k=4))
    sketch.add([1.0, 2.0])
    with pytest.raises(ValueError, match="k: expected 0 to 2"):
        sketch.finish()
    sketch.add([[0.5, -4.0], [7.0, 7.0]], name="w")
    assert sketch.finish() is None
    following = sketch.refine()
    with pytest.raises(ValueError, match="another round"):
        following.merge(sketch)
    with pytest.raises(ValueError, match=r"weights\['w'\]\[1, 0\] is NaN, in the part from flat index 8"):
        following.add([[0.0, 1.0], [np.nan, 0.0]], name="w", start=8)
    following.add(np.ones(5))
    with pytest.raises(ValueError, match="weights: expected the 6 of the first round, got 5"):
        following.finish()


def test_float64_that_the_first_round_lacked_is_refused():
    sketch = sc.Sketch(k=1)
    sketch.add(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="no float64"):
        sketch.refine().add(np.ones(3))


def test_nothing_is_kept():
    for target in ({"k": 0}, {"sparsity": 1.0}):
        sketch = sc.Sketch(**target)
        sketch.add([1.0, 2.0])
        sketch = sketch.refine()
        sketch.add([1.0, 2.0])
        cut = sketch.finish()
        assert cut == sc.topk_cut([1.0, 2.0], **target)
        assert not cut.mask([1.0, 2.0]).any()


def test_callables_that_went_through_other_processes():
    """Pickled by value, a function is another object each time."""

    def made(criterion):
        return sc.Sketch(k=3, criterion=criterion)

    def again(function):
        code = marshal.loads(marshal.dumps(function.__code__))
        return types.FunctionType(code, globals(), argdefs=function.__defaults__)

    score = lambda w, g=None: np.abs(w)  # noqa: E731  (no name to be found by)
    one, two = made(again(score)), made(again(score))
    assert one._rule[0] is not two._rule[0]
    one.add([1.0, 2.0, 3.0])
    two.add([4.0, 5.0], start=3)
    one.merge(two)
    assert one._seen() == 5
    for other in (lambda w, g=None: -w, partial(np.multiply, -1.0), partial(np.multiply, 1.0)):
        with pytest.raises(ValueError, match=r"^other: "):
            one.merge(made(other))
    with pytest.raises(ValueError, match=r"^other: "):
        made(partial(np.multiply, -1.0)).merge(made(partial(np.multiply, 1.0)))
    made(pickle.loads(pickle.dumps(partial(np.multiply, 1.0)))).merge(made(partial(np.multiply, 1.0)))
