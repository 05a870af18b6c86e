"""Selection in every form that it is asked for: bits, guesses, weights zeroed, cuts, 16-bit weights."""

import numpy as np
import pytest

import secateur as sc

TYPES = ["f2", "f4", "f8"]
try:
    from ml_dtypes import bfloat16

    TYPES.append(bfloat16)
except ImportError:
    pass


def oracle(weights, k):
    """The masks of the k largest magnitudes, tensors in the order of their names."""
    names = sorted(weights, key=str.encode)
    scores = np.concatenate([np.abs(np.asarray(weights[name], np.float64)).reshape(-1) for name in names])
    kept = np.zeros(scores.size, bool)
    kept[np.argsort(-scores, kind="stable")[:k]] = True
    ends = np.cumsum([weights[name].size for name in names])[:-1]
    return {
        name: part.reshape(weights[name].shape)
        for name, part in zip(names, np.split(kept, ends), strict=True)
    }


@pytest.fixture(params=[1, 100])
def weights(request):
    """Tensors of every type, full of ties, some larger than what is sampled; one is empty."""
    rng = np.random.default_rng(request.param)
    many = {"z": 313, "B": 7, "a": 50}
    found = {
        f"{name}{at}": rng.integers(-90, 90, (size * request.param, 3)).astype(dtype)
        for at, dtype in enumerate(TYPES)
        for name, size in many.items()
    }
    return {**found, "empty": np.zeros((0, 4), np.float32)}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_every_form_is_the_same_selection(weights, share):
    n = sum(w.size for w in weights.values())
    k = round(share * n)
    wanted = oracle(weights, k)
    threshold = sc.topk_cut(weights, k=k).score
    for near in (None, threshold, 0.0, 1e9):
        masks = sc.prune_mask(weights, k=k, near=near)
        bits = sc.prune_mask(weights, k=k, near=near, bits=True)
        cut = sc.topk_cut(weights, k=k, near=near)
        pruned = sc.topk_prune(weights, k=k, near=near)
        for name, w in weights.items():
            np.testing.assert_array_equal(masks[name], wanted[name])
            np.testing.assert_array_equal(bits[name], np.packbits(wanted[name], bitorder="little"))
            np.testing.assert_array_equal(cut.mask(w, name=name), wanted[name])
            assert pruned[name].dtype == w.dtype
            np.testing.assert_array_equal(
                pruned[name].astype(float), np.where(wanted[name], w.astype(float), 0)
            )
            middle = w.size // 3
            parts = [
                cut.mask(w.reshape(-1)[:middle], name=name),
                cut.mask(w.reshape(-1)[middle:], name=name, start=middle),
            ]
            np.testing.assert_array_equal(np.concatenate(parts), wanted[name].reshape(-1))


@pytest.mark.parametrize("criterion", ["l1", "gradient", "taylor", "combined"])
def test_cuts_and_pruning_take_criteria(criterion):
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 40, 9)).astype(np.float32)
    lam = 0.5 if criterion == "combined" else 0.0
    mask = sc.prune_mask(w, g, sparsity=0.7, criterion=criterion, lam=lam)
    cut = sc.topk_cut(w, g, sparsity=0.7, criterion=criterion, lam=lam)
    np.testing.assert_array_equal(cut.mask(w, g), mask)
    pruned = sc.topk_prune(w, g, sparsity=0.7, criterion=criterion, lam=lam)
    np.testing.assert_array_equal(pruned, np.where(mask, w, 0))


def test_scores_of_half_precision_are_made_in_float32():
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 5000)).astype(np.float16)
    exact = sc.prune_mask(w.astype(np.float32), g.astype(np.float32), k=1000, criterion="taylor")
    np.testing.assert_array_equal(sc.prune_mask(w, g, k=1000, criterion="taylor"), exact)


def test_pruning_in_place_writes_nothing_where_it_is_refused():
    w = np.arange(-6.0, 6.0, dtype=np.float32).reshape(3, 4)
    wanted = np.where(np.abs(w) > 3, w, 0)
    assert sc.topk_prune(w, k=5, out=w) is w
    np.testing.assert_array_equal(w, wanted)
    turned = np.asfortranarray(wanted)
    assert sc.topk_prune(turned, k=1, out=turned) is turned
    assert np.count_nonzero(turned) == 1 and turned[0, 0] == -6
    broken = np.array([1.0, np.nan, 2.0], np.float32)
    with pytest.raises(ValueError, match=r"weights\[1\] is NaN"):
        sc.topk_prune(broken, k=1, out=broken)
    assert broken[0] == 1 and broken[2] == 2
    for out, error, message in [
        (np.zeros(2, np.float32), ValueError, "out: expected shape"),
        (np.zeros(3), TypeError, "out: expected dtype"),
        ({"a": broken}, TypeError, "out: expected a mapping where"),
    ]:
        with pytest.raises(error, match=message):
            sc.topk_prune(np.ones(3, np.float32), k=1, out=out)
    pair = {"a": np.ones(2), "b": np.full(2, 2.0)}
    with pytest.raises(ValueError, match=r"out: overlaps weights\['b'\]"):
        sc.topk_prune(pair, k=1, out={"a": pair["b"], "b": pair["a"]})
    one = np.zeros(2)
    with pytest.raises(ValueError, match=r"out: overlaps out\['b'\]"):
        sc.topk_prune(pair, k=1, out={"a": one, "b": one})
    assert pair["a"].all() and pair["b"].all()
    with pytest.raises(ValueError, match="out: missing 'b'"):
        sc.topk_prune({"a": np.ones(2), "b": np.ones(2)}, k=1, out={"a": np.ones(2)})


def test_cuts_refuse_what_masks_refuse():
    with pytest.raises(ValueError, match=r"weights\['a'\]\[0\] is NaN"):
        sc.topk_cut({"a": [np.nan]}, k=0)
    with pytest.raises(ValueError, match="k: expected 0 to 2"):
        sc.topk_cut([1.0, 2.0], k=3)
    with pytest.raises(ValueError, match="criterion: 'random'"):
        sc.topk_cut([1.0, 2.0], k=1, criterion="random")
    nothing = sc.topk_cut([1.0, np.inf], k=0)
    assert not nothing.mask([1.0, np.inf]).any()
    with pytest.raises(ValueError, match="near"):
        sc.prune_mask([1.0, 2.0], k=1, near=np.nan)
