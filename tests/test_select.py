"""Selection against a stable sort, which is the definition of the order."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc

CASES = int(os.environ.get("SECATEUR_CASES", "500"))

# Few distinct values, so that most scores tie; the last ones are the awkward ones.
VALUES = [-2.0, -1.0, 0.0, 1.0, 2.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, np.inf, -np.inf, 3.4e38]


def oracle(scores, k):
    """The k largest of the scores, the earlier of equal ones first."""
    flat = np.asarray(scores, np.float64).reshape(-1)
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:k]] = True
    return mask.reshape(np.shape(scores))


def block_oracle(scores, block, sparsity):
    """Whole blocks go one after another while that brings the removed fraction nearer to the sparsity."""
    matrix = np.abs(np.asarray(scores, np.float64)).reshape(len(scores), -1)
    mask = np.ones(matrix.shape, bool)
    corners = [
        (i, j) for i in range(0, matrix.shape[0], block[0]) for j in range(0, matrix.shape[1], block[1])
    ]
    parts = [np.s_[i : i + block[0], j : j + block[1]] for i, j in corners]
    # sum() would add in another order; the sums here are of small integers, exact in any.
    order = np.argsort([-matrix[part].sum() for part in parts], kind="stable")[::-1]
    target, gone, removed = sparsity * matrix.size, 0, 0
    for at in order:
        size = matrix[parts[at]].size
        short, over = target - removed, removed + size - target
        if over > short or (over == short and gone % 2 == 0):
            break
        mask[parts[at]] = False
        gone, removed = gone + 1, removed + size
    return mask.reshape(np.shape(scores))


def tied(rng, shape, dtype=np.float32):
    """An array of tie-heavy values of the dtype."""
    if np.dtype(dtype).kind == "f":
        values = np.array(VALUES if rng.random() < 0.5 else VALUES[:5])
        with np.errstate(over="ignore"):
            return rng.choice(values, shape).astype(dtype)
    return rng.integers(0, 4, shape).astype(dtype)


def layouts(x):
    """The same values in every layout, read-only, byte-swapped and misaligned."""
    padded = np.zeros((x.shape[0] * 2, x.shape[1] * 3), x.dtype)
    padded[::2, 1::3] = x
    flipped = x[::-1, ::-1].copy()[::-1, ::-1]
    frozen = x.copy()
    frozen.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, np.uint8)
    misaligned = raw[1:].view(x.dtype).reshape(x.shape)
    misaligned[...] = x
    return {
        "C": x.copy(),
        "Fortran": np.asfortranarray(x),
        "negative strides": flipped,
        "sliced": padded[::2, 1::3],
        "read-only": frozen,
        "byte-swapped": x.astype(x.dtype.newbyteorder()),
        "misaligned": misaligned,
    }


def test_top_k_is_the_stable_sort_on_ten_thousand_tie_heavy_arrays():
    rng = np.random.default_rng(0)
    dtypes = [np.float32, np.float64, np.float16, np.int8, np.int64, np.uint16, np.bool_]
    for case in range(max(CASES, 10_000)):
        scores = tied(rng, rng.integers(0, 60), dtypes[case % len(dtypes)])
        k = int(rng.integers(0, scores.size + 1))
        np.testing.assert_array_equal(
            sc.topk_mask(scores, k), oracle(scores, k), f"case {case}: k={k}, {scores}"
        )
        if k:
            assert sc.kth_largest(scores, k) == np.sort(scores.astype(np.float64))[-k]


@pytest.mark.parametrize("n", [100_000, 131_072, 131_073, 400_001])
@pytest.mark.parametrize("kind", ["normal", "equal", "two", "sorted", "close", "subnormal", "zeros"])
def test_large_arrays_of_every_kind(n, kind):
    rng = np.random.default_rng(n)
    scores = {
        "normal": rng.standard_normal(n),
        "equal": np.full(n, 0.25),
        "two": rng.integers(0, 2, n),
        "sorted": np.arange(n) / n,
        "close": 1 + rng.integers(0, 100, n) * 2.0**-23,
        "subnormal": rng.integers(0, 1000, n) * 2.0**-149,
        "zeros": np.where(rng.random(n) < 0.9, rng.choice([0.0, -0.0], n), rng.standard_normal(n)),
    }[kind]
    for dtype in (np.float32, np.float64):
        for k in (0, 1, n // 10, n // 2, n - 1, n):
            array = scores.astype(dtype)
            np.testing.assert_array_equal(sc.topk_mask(array, k), oracle(array, k))
            np.testing.assert_array_equal(sc.prune_mask(array, k=k), oracle(np.abs(array), k))


@settings(max_examples=CASES, deadline=None)
@given(st.data())
def test_mappings_rank_as_a_whole_by_name_then_index(data):
    names = data.draw(st.lists(st.text(max_size=3), max_size=5, unique=True))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scores = {}
    for name in names:
        shape = tuple(rng.integers(0, 5, rng.integers(0, 4)))
        scores[name] = tied(rng, shape, rng.choice([np.float32, np.float64, np.int16]))
    order = sorted(names, key=lambda name: name.encode())
    flat = np.concatenate([np.ravel(scores[name]).astype(np.float64) for name in order] or [np.zeros(0)])
    k = data.draw(st.integers(0, flat.size))
    masks = sc.topk_mask(scores, k)
    assert list(masks) == names
    assert all(masks[name].shape == np.shape(scores[name]) for name in names)
    together = np.concatenate([masks[name].ravel() for name in order] or [np.zeros(0, bool)])
    np.testing.assert_array_equal(together, oracle(flat, k))
    if k:
        assert sc.kth_largest(scores, k) == np.sort(flat)[-k]


@pytest.mark.parametrize("criterion", ["l1", "l2", "gradient", "taylor", "combined"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_on_the_fly_are_those_of_importance(criterion, dtype):
    rng = np.random.default_rng(1)
    for case in range(CASES // 5):
        shape = tuple(rng.integers(0, 8, 2))
        weights, grads = (tied(rng, shape, dtype) if case % 2 else rng.standard_normal(shape) for _ in "wg")
        weights, grads = (np.nan_to_num(x, posinf=9, neginf=-9).astype(dtype) for x in (weights, grads))
        lam = 0.0 if criterion in ("gradient", "taylor") else 0.3
        options = {"criterion": criterion, "lam": lam}
        k = int(rng.integers(0, weights.size + 1))
        expected = oracle(sc.importance(weights, grads, **options), k)
        np.testing.assert_array_equal(sc.prune_mask(weights, grads, k=k, **options), expected)


def test_random_and_callable_criteria():
    weights = {"a": np.arange(6.0), "b": np.arange(4.0)}
    one, same, other = (
        sc.prune_mask(weights, k=5, criterion="random", random_state=seed) for seed in (1, 1, 2)
    )
    assert all((one[name] == same[name]).all() for name in weights)
    assert sum(mask.sum() for mask in other.values()) == 5
    smallest = sc.prune_mask(weights, k=2, criterion=lambda w, g: -w)
    assert smallest["a"].tolist() == [True] + [False] * 5 and smallest["b"].tolist() == [True] + [False] * 3


def test_sparsity_keeps_n_minus_round_half_even():
    rng = np.random.default_rng(2)
    for n in [0, 1, 2, 3, 10, 25, 1000]:
        for sparsity in [0, 0.5, 1, 0.05, 0.1, 0.9, 0.98, 1 / 3, *rng.random(50)]:
            kept = int(sc.topk_mask(np.ones(n), sparsity=sparsity).sum())
            assert kept == n - round(sparsity * n)
            assert abs((n - kept) / max(n, 1) - sparsity) <= 1 / max(n, 1) or n == 0


def test_nm_keeps_the_first_n_of_every_group_and_of_the_tail():
    rng = np.random.default_rng(3)
    for _ in range(CASES):
        scores = tied(
            rng, tuple(rng.integers(1, 12, rng.integers(1, 4))), rng.choice([np.float32, np.float64])
        )
        m = int(rng.integers(1, 40 if rng.random() < 0.1 else 9))
        n, axis = int(rng.integers(0, m + 1)), int(rng.integers(-scores.ndim, scores.ndim))
        mask = np.moveaxis(sc.nm_mask(scores, n, m, axis), axis, -1)
        moved = np.moveaxis(scores, axis, -1)
        for start in range(0, moved.shape[-1], m):
            part = np.s_[..., start : start + m]
            assert (mask[part].sum(-1) == min(n, moved[part].shape[-1])).all()
            for group, kept in zip(
                moved[part].reshape(-1, moved[part].shape[-1]),
                mask[part].reshape(-1, moved[part].shape[-1]),
                strict=True,
            ):
                np.testing.assert_array_equal(kept, oracle(group, n))


def test_nm_groups_larger_than_the_pairwise_path():
    rng = np.random.default_rng(4)
    for shape, axis in [((3, 500), 1), ((500, 3), 0), ((2, 300, 2), 1), ((200_000,), 0), ((4, 70_000), 0)]:
        scores = tied(rng, shape)
        for n, m in [(2, 4), (20, 64), (100, 10**30)]:
            mask = np.moveaxis(sc.nm_mask(scores, n, m, axis), axis, 0)
            moved = np.moveaxis(scores, axis, 0)
            last = (len(moved) - 1) // m * m
            for start in (0, last):
                np.testing.assert_array_equal(
                    mask[start : start + m].reshape(len(mask[start : start + m]), -1)[:, 0],
                    oracle(moved[start : start + m].reshape(len(mask[start : start + m]), -1)[:, 0], n),
                )


def test_blocks_go_whole_and_come_nearest_to_the_sparsity():
    rng = np.random.default_rng(5)
    for _ in range(CASES):
        shape = tuple(rng.integers(1, 10, rng.integers(1, 4)))
        block = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        scores = rng.integers(-3, 4, shape).astype(rng.choice([np.float32, np.float64]))
        sparsity = rng.random() if rng.random() < 0.5 else int(rng.integers(0, 9)) / 8
        mask = sc.block_mask(scores, block, sparsity=sparsity)
        np.testing.assert_array_equal(mask, block_oracle(scores, block, sparsity))
        removed = 1 - mask.sum() / mask.size
        assert abs(removed - sparsity) <= block[0] * block[1] / mask.size + 1e-12


def test_blocks_without_tails_are_counted_exactly_and_ranked_across_tensors():
    rng = np.random.default_rng(6)
    scores = {"b": rng.integers(0, 3, (16, 6)).astype(np.float32), "a": rng.integers(0, 3, (24, 5)) * 1.0}
    sums = {name: x.reshape(-1, 8, x.shape[1]).sum(1) for name, x in scores.items()}
    for sparsity in np.arange(28) / 27:
        masks = sc.block_mask(scores, sparsity=sparsity)
        kept = sc.topk_mask(sums, sparsity=sparsity)
        assert sum(int(mask.sum()) for mask in kept.values()) == 27 - round(sparsity * 27)
        for name in scores:
            np.testing.assert_array_equal(masks[name], np.repeat(kept[name], 8, axis=0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_gives_the_same_masks_and_is_left_alone(dtype):
    x = np.random.default_rng(7).standard_normal((9, 14)).astype(dtype)
    grads = np.random.default_rng(8).standard_normal((9, 14)).astype(dtype)
    calls = {
        "topk": lambda w: sc.topk_mask(w, 50),
        "prune": lambda w: sc.prune_mask(w, grads, k=50, criterion="taylor"),
        "kth": lambda w: sc.kth_largest(w, 50),
        "nm": lambda w: sc.nm_mask(w, 2, 4),
        "block": lambda w: sc.block_mask(w, (4, 2), sparsity=0.5),
        "apply": lambda w: sc.apply_mask(w, grads > 0),
        "l1": lambda w: sc.l1_prune(w, 0.5),
        "l2": lambda w: sc.l2_prune(w, 0.5, neuron_axis=1),
        "grad": lambda w: sc.grad_prune(w, grads, 0.5),
        "importance": lambda w: sc.importance(w, grads, lam=0.1),
    }
    for call, function in calls.items():
        expected = function(x.copy())
        for name, array in layouts(x).items():
            before = np.array(array)
            np.testing.assert_array_equal(function(array), expected, f"{call}, {name}")
            np.testing.assert_array_equal(array, before, f"{call}, {name}")
    stretched = np.broadcast_to(x[:1], (5, 14))
    np.testing.assert_array_equal(sc.topk_mask(stretched, 33), oracle(stretched, 33))
    np.testing.assert_array_equal(sc.nm_mask(stretched, 1, 2, 0), sc.nm_mask(stretched.copy(), 1, 2, 0))


def test_results_do_not_depend_on_threads():
    rng = np.random.default_rng(9)
    large = {"a": tied(rng, 300_000), "b": rng.standard_normal((700, 300)), "c": tied(rng, (3, 5))}
    calls = [
        lambda: sc.topk_mask(large, sparsity=0.7),
        lambda: sc.topk_mask({"a": large["a"]}, 150_001),
        lambda: sc.nm_mask(large, 2, 4),
        lambda: sc.block_mask(large["b"], (8, 1), sparsity=0.5),
        lambda: sc.apply_mask(large["b"], large["b"] > 0),
        lambda: sc.kth_largest(large, 200_000),
    ]
    before = sc.get_num_threads()
    try:
        sc.set_num_threads(1)
        expected = [call() for call in calls]
        for threads in (1, 2, 3, 8):
            sc.set_num_threads(threads)
            for _ in range(20):
                for call, wanted in zip(calls, expected, strict=True):
                    np.testing.assert_equal(call(), wanted)
    finally:
        sc.set_num_threads(before)


def test_nan_is_named_by_tensor_and_index():
    scores = np.zeros((4, 3, 2, 3), np.float32)
    scores[3, 0, 1, 2] = np.nan
    many = {"dense.weight": np.zeros(5), "conv.weight": scores}
    at = r"\[3, 0, 1, 2\] is NaN"
    for call in [
        lambda: sc.topk_mask(many, 7),
        lambda: sc.topk_mask(many, 0),
        lambda: sc.topk_mask(many, sparsity=0),
        lambda: sc.kth_largest(many, 1),
        lambda: sc.nm_mask(many, 2, 4),
        lambda: sc.block_mask(many, sparsity=0.5),
    ]:
        with pytest.raises(ValueError, match=rf"scores\['conv.weight'\]{at}"):
            call()
    with pytest.raises(ValueError, match=rf"^scores{at}"):
        sc.topk_mask(np.asfortranarray(scores), 7)
    with pytest.raises(ValueError, match=rf"^weights{at}"):
        sc.prune_mask(scores, k=3)
    with pytest.raises(ValueError, match=rf"^grads{at}"):
        sc.prune_mask(np.ones_like(scores), scores, k=3, criterion="gradient")
    with pytest.raises(ValueError, match=rf"^weights\['conv.weight'\]{at}"):
        sc.prune_mask(many, k=3)
    with pytest.raises(ValueError, match=r"^the score of weights\[1\] is NaN"):
        sc.prune_mask([1.0, 0.0], [1.0, np.inf], k=1, criterion="taylor")
    with pytest.raises(ValueError, match=r"^scores is NaN"):
        sc.topk_mask(np.nan, 1)
    # Only the last of many pieces holds it.
    late = np.zeros(1_000_000, np.float32)
    late[-1] = np.nan
    with pytest.raises(ValueError, match=r"scores\[999999\] is NaN"):
        sc.topk_mask(late, 10)


def test_numbers_that_are_not_finite_or_normal_are_ranked():
    scores = np.array([0.0, -0.0, 1e-45, np.inf, -np.inf, np.inf], np.float32)
    assert sc.topk_mask(scores, 1).tolist() == [False, False, False, True, False, False]
    assert sc.topk_mask(scores, 3).tolist() == [False, False, True, True, False, True]
    assert sc.topk_mask(scores, 4).tolist() == [True, False, True, True, False, True]
    assert sc.topk_mask(scores[::-1], 4).tolist() == [True, False, True, True, True, False]
    assert str(sc.kth_largest([-0.0], 1)) == "0.0"


BAD = [
    (lambda: sc.topk_mask([1.0], 2), ValueError, "k: expected 0 to 1"),
    (lambda: sc.topk_mask([1.0], -1), ValueError, "k: expected 0 to 1"),
    (lambda: sc.topk_mask([1.0], 10**30), ValueError, "k: expected 0 to 1"),
    (lambda: sc.topk_mask([1.0], 0.5), TypeError, "k: expected an integer, got float"),
    (lambda: sc.topk_mask([1.0]), ValueError, "k, sparsity: give exactly one of them, got neither"),
    (
        lambda: sc.topk_mask([1.0], 1, sparsity=0.5),
        ValueError,
        "k, sparsity: give exactly one of them, got both",
    ),
    (
        lambda: sc.topk_mask([1.0], sparsity=1.5),
        ValueError,
        r"sparsity: expected a number in \[0, 1\], got 1.5",
    ),
    (lambda: sc.topk_mask([1.0], sparsity=-0.1), ValueError, "sparsity: expected a number"),
    (lambda: sc.topk_mask([1.0], sparsity=np.nan), ValueError, "sparsity: expected a number"),
    (lambda: sc.topk_mask([1.0], sparsity="half"), TypeError, "sparsity: expected a number, got str"),
    (lambda: sc.topk_mask([1j], 1), TypeError, "scores: expected real numbers, got dtype complex128"),
    (lambda: sc.topk_mask(["a"], 1), TypeError, "scores: expected real numbers, got dtype <U1"),
    (lambda: sc.topk_mask([None], 1), TypeError, "scores: expected real numbers, got dtype object"),
    (lambda: sc.topk_mask({"a": ["x"]}, 1), TypeError, r"scores\['a'\]: expected real numbers"),
    (lambda: sc.topk_mask({1: [1.0]}, 1), TypeError, "scores: expected names to be str, got 1"),
    (lambda: sc.topk_mask([[1.0], [1.0, 2.0]], 1), ValueError, "scores: "),
    (lambda: sc.topk_mask(np.array([2**53 + 1]), 1), ValueError, r"scores: integers beyond 2\*\*53"),
    (lambda: sc.topk_mask({}, 1), ValueError, "k: expected 0 to 0"),
    (lambda: sc.kth_largest([1.0], 0), ValueError, "k: expected 1 to 1"),
    (lambda: sc.kth_largest([], 1), ValueError, "k: expected 1 to 0"),
    (
        lambda: sc.prune_mask([1.0], k=1, criterion="l3"),
        ValueError,
        "criterion: unknown 'l3'; choose from l1, l2, ",
    ),
    (lambda: sc.prune_mask([1.0], k=1, criterion="taylor"), ValueError, "grads: "),
    (lambda: sc.prune_mask([1.0], k=1, lam=0.5), ValueError, "grads: "),
    (lambda: sc.prune_mask([1.0], [1.0], k=1, lam=-1), ValueError, "lam: expected a number >= 0"),
    (lambda: sc.prune_mask([1.0], [1.0], k=1, criterion="taylor", lam=1), ValueError, "lam: not used by"),
    (
        lambda: sc.prune_mask([1.0], [1.0, 2.0], k=1, lam=1),
        ValueError,
        r"grads: expected the weights' shape \(1,\)",
    ),
    (lambda: sc.prune_mask({"a": [1.0]}, {}, k=1, lam=1), ValueError, "grads: missing 'a'"),
    (lambda: sc.prune_mask({"a": [1.0]}, [1.0], k=1, lam=1), TypeError, "grads: expected a mapping"),
    (lambda: sc.prune_mask({"a": [1.0]}, {"a": [[1.0]]}, k=1, lam=1), ValueError, r"grads\['a'\]: expected"),
    (lambda: sc.nm_mask([1.0], 3, 2), ValueError, r"n: expected 0 to 2 \(m\), got 3"),
    (lambda: sc.nm_mask([1.0], -1, 2), ValueError, "n: expected 0 to 2"),
    (lambda: sc.nm_mask([1.0], 0, 0), ValueError, "m: expected at least 1"),
    (lambda: sc.nm_mask([1.0], 1, 2, axis=1), ValueError, "axis: 1 is out of range"),
    (lambda: sc.nm_mask(1.0, 1, 2), ValueError, "axis: -1 is out of range"),
    (lambda: sc.block_mask([1.0], (0, 1), sparsity=0.5), ValueError, "block: expected two positive integers"),
    (lambda: sc.block_mask([1.0], (8,), sparsity=0.5), ValueError, "block: expected two positive integers"),
    (lambda: sc.block_mask([1.0], "8x1", sparsity=0.5), ValueError, "block: expected two positive integers"),
    (lambda: sc.block_mask([1.0], sparsity=2), ValueError, "sparsity: expected a number"),
    (lambda: sc.block_mask(1.0, sparsity=0.5), ValueError, "scores: expected at least one dimension"),
    (lambda: sc.apply_mask([1.0], [True, False]), ValueError, "mask: expected the weights' shape"),
    (lambda: sc.apply_mask([1.0], [1]), TypeError, "mask: expected an array of bool"),
    (lambda: sc.apply_mask([1j], [True]), TypeError, "w: expected real numbers"),
    (lambda: sc.apply_mask([1.0], [True], out=[1.0]), TypeError, "out: expected an array"),
    (lambda: sc.apply_mask([1.0], [True], out=np.zeros(2)), ValueError, "out: expected shape"),
    (
        lambda: sc.apply_mask([1.0], [True], out=np.zeros(1, np.float32)),
        TypeError,
        "out: expected dtype float64",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_arguments_are_named_in_one_line(call, error, message):
    with pytest.raises(error, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "i8", "u2", "?"])
def test_apply_mask_zeroes_bit_by_bit(dtype):
    rng = np.random.default_rng(10)
    weights = rng.integers(-3, 4, (7, 5)).astype(dtype)
    mask = rng.random((7, 5)) < 0.5
    expected = np.where(mask, weights, 0).astype(dtype)
    outs = [None, np.ones((7, 5), dtype), np.ones((5, 7), dtype).T, np.ones((7, 10), dtype)[:, ::2]]
    for out in outs:
        result = sc.apply_mask(weights, mask, out)
        assert out is None or result is out
        assert result.dtype == weights.dtype and result.tobytes() == expected.tobytes()
    for w in (weights.copy(), np.asfortranarray(weights), np.repeat(weights, 2, 1)[:, ::2]):
        assert sc.apply_mask(w, mask, out=w) is w
        assert w.tobytes() == expected.tobytes()


def test_apply_mask_keeps_what_stays_and_clears_what_goes():
    w = np.array([np.nan, np.nan, -0.0, -0.0, np.inf, -np.inf], np.float32)
    result = sc.apply_mask(w, np.array([1, 0, 1, 0, 1, 0], bool))
    assert np.isnan(result[0]) and np.signbit(result[2]) and result[4] == np.inf
    assert result[1::2].tobytes() == np.zeros(3, np.float32).tobytes()
    # A bool array may hold any byte: what is not 0 is True.
    assert sc.apply_mask(np.ones(3), np.array([0, 2, 255], np.uint8).view(bool)).tolist() == [0, 1, 1]


def test_apply_mask_refuses_out_that_overlaps_in_part():
    buffer = np.arange(20.0)
    mask = np.ones(10, bool)
    for out in (buffer[1:11], buffer[9::-1], buffer[:20:2]):
        with pytest.raises(ValueError, match=r"^out: overlaps w partly"):
            sc.apply_mask(buffer[:10], mask, out=out)
    np.testing.assert_array_equal(buffer, np.arange(20.0))
    # Interleaved, but with no element in common.
    sc.apply_mask(buffer[::2], mask, out=buffer[1::2])
    np.testing.assert_array_equal(buffer[1::2], buffer[::2])
    flags = np.ones(8, bool)
    with pytest.raises(ValueError, match=r"^out: overlaps mask"):
        sc.apply_mask(np.zeros(8, np.int8), flags, out=flags.view(np.int8))
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out: is read-only"):
        sc.apply_mask(frozen, np.ones(3, bool), out=frozen)
    with pytest.raises(ValueError, match=r"^out: "):
        sc.apply_mask(
            np.zeros(4), np.ones(4, bool), out=np.lib.stride_tricks.as_strided(np.zeros(1), (4,), (0,))
        )


def test_lists_are_arrays():
    assert sc.topk_mask([[3, 1], [2, 4]], 2).tolist() == [[True, False], [False, True]]
    assert sc.apply_mask([3, 1], [True, False]).tolist() == [3, 0]


def test_eight_threads_of_a_thousand_calls_each_finish():
    rng = np.random.default_rng(11)
    scores = rng.standard_normal((40, 25)).astype(np.float32)
    expected = sc.topk_mask(scores, 100)
    finished = []

    def work():
        for _ in range(1_000):
            np.testing.assert_array_equal(sc.topk_mask(scores, 100), expected)
        finished.append(True)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert finished == [True] * 8


def test_other_threads_run_while_the_core_works():
    scores = np.random.default_rng(12).standard_normal(5_000_000).astype(np.float32)
    ticks = [0]
    done = threading.Event()

    def tick():
        while not done.wait(0.0005):
            ticks[0] += 1

    def ticks_during_a_call():
        before = ticks[0]
        sc.topk_mask(scores, 1_000_000)
        return ticks[0] - before

    ticker = threading.Thread(target=tick)
    ticker.start()
    # A call lasts milliseconds; on a busy machine it takes a few before the other thread gets its turn.
    ran = any(ticks_during_a_call() >= 2 for _ in range(1_000))
    done.set()
    ticker.join()
    assert ran
