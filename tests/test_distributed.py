"""Selection over Dask arrays, against that over NumPy arrays in one process."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc
from secateur import distributed

da = pytest.importorskip("dask.array")


def weights_of(seed=0, rows=(37, 5)):
    rng = np.random.default_rng(seed)
    # Few values, so that many weights tie.
    return {name: rng.integers(-3, 4, (n, 11)).astype(np.float32) for name, n in zip("bA", rows, strict=True)}


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0, 1), st.integers(1, 40), st.integers(1, 11))
def test_any_chunks_give_the_same_masks(seed, sparsity, height, width):
    arrays = weights_of(seed)
    chunked = {name: da.from_array(w, chunks=(height, width)) for name, w in arrays.items()}
    assert distributed.topk_cut(chunked, sparsity=sparsity) == sc.topk_cut(arrays, sparsity=sparsity)
    wanted = sc.prune_mask(arrays, sparsity=sparsity)
    for name, mask in distributed.prune_mask(chunked, sparsity=sparsity).items():
        np.testing.assert_array_equal(mask.compute(), wanted[name])


def test_gradients_lone_arrays_and_dtypes():
    rng = np.random.default_rng(3)
    w, g = (rng.normal(size=(64, 3, 5)).astype(np.float16) for _ in range(2))
    rule = {"k": 100, "criterion": "combined", "lam": 0.5}
    lazy = distributed.topk_prune(da.from_array(w, chunks=(7, 2, 5)), da.from_array(g, chunks=10), **rule)
    assert lazy.dtype == np.float16 and lazy.shape == w.shape
    np.testing.assert_array_equal(lazy.compute(), sc.topk_prune(w, g, **rule))
    for shape in [(), (0,), (4, 0), (6,)]:
        w = np.ones(shape)
        mask = distributed.prune_mask(da.from_array(w), sparsity=0.5)
        np.testing.assert_array_equal(mask.compute(), sc.prune_mask(w, sparsity=0.5))


def test_what_is_wrong_is_named():
    w = da.ones((4, 4), chunks=2)
    with pytest.raises(TypeError, match=r"weights\['a'\]: expected a dask.array.Array, got ndarray"):
        distributed.prune_mask({"a": np.ones(3)}, k=1)
    with pytest.raises(ValueError, match="k: expected 0 to 16"):
        distributed.prune_mask(w, k=17)
    with pytest.raises(ValueError, match="grads: expected the weights' shape"):
        distributed.prune_mask(w, w[:2], k=1, criterion="taylor")
    with pytest.raises(ValueError, match=r"grads\['a'\]: missing"):
        distributed.prune_mask({"a": w}, {"b": w}, k=1, criterion="taylor")
    with pytest.raises(ValueError, match="grads"):
        distributed.prune_mask(w, k=1, criterion="gradient")
    with pytest.raises(ValueError, match="size is unknown"):
        distributed.prune_mask(w[w[:, 0] > 0], k=1)
    with pytest.raises(ValueError, match=r"weights\['a'\]\[0, 1\] is NaN, in the part from flat index 8"):
        distributed.prune_mask({"a": da.where(da.arange(16).reshape(4, 4) == 9, np.nan, w)}, k=1)


def _rows(flag, first, rows):
    """Some rows of a matrix; the first process that makes the last ones is killed instead."""
    if flag is not None and first >= 48:
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), 9)
    return np.random.default_rng(first).integers(-50, 50, (rows, 1000)).astype(np.float32)


@pytest.mark.filterwarnings("default")
def test_a_worker_that_is_killed_changes_nothing(tmp_path: Path):
    dask = pytest.importorskip("dask")
    client = pytest.importorskip("dask.distributed")

    def matrix(flag):
        parts = [
            da.from_delayed(dask.delayed(_rows, pure=True)(flag, first, 4), (4, 1000), np.float32)
            for first in range(0, 64, 4)
        ]
        return da.concatenate(parts)

    whole = np.concatenate([_rows(None, first, 4) for first in range(0, 64, 4)])
    wanted = sc.prune_mask(whole, sparsity=0.9)
    flag = str(tmp_path / "killed")
    with (
        client.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        client.Client(cluster) as session,
    ):
        before = set(session.scheduler_info()["workers"])
        mask = distributed.prune_mask(matrix(flag), sparsity=0.9).compute()
        session.wait_for_workers(2, timeout=60)
        after = set(session.scheduler_info()["workers"])
    assert os.path.exists(flag) and before != after
    np.testing.assert_array_equal(mask, wanted)
