"""Packed matrices against float64, over formats, layouts of the input, and bad input."""

from __future__ import annotations

import os

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc

CASES = int(os.environ.get("SECATEUR_CASES", "500"))
FORMATS = [
    ("csr", (8, 1)),
    ("pattern", (8, 1)),
    ("bitmap", (8, 1)),
    ("window", (8, 1)),
    ("stream", (8, 1)),
    ("dense", (8, 1)),
    ("auto", (8, 1)),
    ("block", (4, 1)),
    ("block", (8, 1)),
    ("block", (16, 1)),
    ("block", (4, 4)),
]
UNIT = 2.0**-24


def sparse(rng, m, k, density):
    weights = rng.standard_normal((m, k), dtype=np.float32)
    return np.where(rng.random((m, k)) < density, weights, np.float32(0))


def check(weights, x, y, extra=0.0):
    """|error| <= gamma_k (|W| |x|), k = nonzeros of the row + 2."""
    weights, x = weights.astype(np.float64), np.asarray(x, np.float64)
    count = ((weights != 0).sum(axis=1) + 2).astype(np.float64)
    gamma = count * UNIT / (1 - count * UNIT)
    size = np.abs(weights) @ np.abs(x) + extra
    bound = gamma[:, None] * size if x.ndim == 2 else gamma * size
    assert (np.abs(y - (weights @ x)) <= bound).all()


@settings(max_examples=CASES, deadline=None)
@given(
    m=st.integers(0, 70),
    k=st.integers(0, 200),
    n=st.integers(0, 70),
    density=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(FORMATS),
    target=st.sampled_from(sc._core.cpu_targets()),
)
def test_products(m, k, n, density, seed, kind, target):
    rng = np.random.default_rng(seed)
    weights = sparse(rng, m, k, density)
    packed = sc.pack(weights, kind[0], block=kind[1], target=target)
    x, dy = rng.standard_normal((k, n), dtype=np.float32), rng.standard_normal((m, n), dtype=np.float32)
    check(weights, x, packed @ x)
    check(weights.T, dy, packed.T @ dy)
    if n:
        check(weights, x[:, 0], packed @ x[:, 0])
    assert np.array_equal(packed.to_dense(), weights)
    assert packed.shape == (m, k) and packed.nnz == np.count_nonzero(weights)
    assert packed.nbytes > 0 and packed.kernel


@settings(max_examples=CASES // 5, deadline=None)
@given(
    m=st.integers(0, 70),
    k=st.integers(0, 200),
    n=st.integers(1, 20),
    pattern=st.sampled_from([(1, 4), (2, 4), (4, 8)]),
    kind=st.sampled_from(["nm", "auto"]),
    share=st.sampled_from([1, 8, 16]),
    seed=st.integers(0, 2**32),
    target=st.sampled_from(sc._core.cpu_targets()),
)
def test_nm_products(m, k, n, pattern, kind, share, seed, target):
    rng = np.random.default_rng(seed)
    mask = sc.nm_mask(rng.random((-(-m // share), k)), *pattern).repeat(share, axis=0)[:m]
    weights = rng.standard_normal((m, k), dtype=np.float32) * mask
    packed = sc.pack(weights, kind, target=target)
    x, dy = rng.standard_normal((k, n), dtype=np.float32), rng.standard_normal((m, n), dtype=np.float32)
    check(weights, x, packed @ x)
    check(weights, x[:, 0], packed @ x[:, 0])
    check(weights.T, dy, packed.T @ dy)
    assert np.array_equal(packed.to_dense(), weights)
    packed.update(2 * packed.values)
    check(2 * weights, x, packed @ x)


def rounded(weights, storage):
    """To nearest even, by other means: NumPy's float16, and the bits of bfloat16."""
    if storage == "f16":
        return weights.astype(np.float16).astype(np.float32)
    bits = weights.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


@settings(max_examples=CASES // 2, deadline=None)
@given(
    m=st.integers(0, 70),
    k=st.integers(0, 200),
    n=st.integers(1, 20),
    density=st.floats(0, 1),
    storage=st.sampled_from(["bf16", "f16"]),
    kind=st.sampled_from([kind for kind in FORMATS if kind[0] not in ("csr", "dense")]),
    scale=st.sampled_from([1.0, 1e4, 1e-4, 1e-7]),
    seed=st.integers(0, 2**32),
    target=st.sampled_from(sc._core.cpu_targets()),
)
def test_products_of_rounded_weights(m, k, n, density, storage, kind, scale, seed, target):
    rng = np.random.default_rng(seed)
    weights = np.float32(scale) * sparse(rng, m, k, density)
    wanted = rounded(weights, storage)
    packed = sc.pack(weights, kind[0], block=kind[1], target=target, storage=storage)
    assert packed.storage == storage
    assert np.array_equal(packed.to_dense(), wanted)
    assert np.array_equal(packed.values, wanted[wanted != 0])
    x, dy = rng.standard_normal((k, n), dtype=np.float32), rng.standard_normal((m, n), dtype=np.float32)
    check(wanted, x, packed @ x)
    check(wanted, x[:, 0], packed @ x[:, 0])
    check(wanted.T, dy, packed.T @ dy)
    assert packed.nnz == np.count_nonzero(wanted)
    values = rng.standard_normal(packed.nnz, dtype=np.float32)
    packed.update(values)
    assert np.array_equal(packed.values, rounded(values, storage))
    fresh = packed.to_dense()
    check(fresh, x, packed @ x)
    check(fresh, x[:, 0], packed @ x[:, 0])
    check(fresh.T, dy, packed.T @ dy)


def test_storage_halves_the_weights():
    weights = sparse(np.random.default_rng(5), 256, 512, 0.5)
    for kind in ("window", "stream", "bitmap", "auto"):
        size = {
            storage: sc.pack(weights, kind, columns=1, storage=storage).nbytes
            - sc.pack(weights, storage=storage).nbytes
            for storage in ("f32", "bf16", "f16")
        }
        assert size["bf16"] == size["f16"] < 0.65 * size["f32"]
    assert "_bf16_" in sc.pack(weights, columns=1, storage="bf16").kernel


@pytest.mark.parametrize("kind", FORMATS)
def test_epilogue(kind):
    rng = np.random.default_rng(0)
    weights, bias = sparse(rng, 37, 90, 0.3), rng.standard_normal(37, dtype=np.float32)
    packed = sc.pack(weights, kind[0], block=kind[1])
    x = rng.standard_normal((90, 21), dtype=np.float32)
    z = weights.astype(np.float64) @ x + bias[:, None]
    wanted = {None: z, "relu": np.maximum(z, 0), "tanh": np.tanh(z), "sigmoid": 1 / (1 + np.exp(-z))}
    for activation, y in wanted.items():
        out = np.full((37, 21), np.nan, np.float32)
        assert packed.matmul(x, bias, activation, out) is out
        np.testing.assert_allclose(out, y, rtol=1e-5, atol=1e-5)


def test_inputs_of_any_layout():
    rng = np.random.default_rng(1)
    # Whole numbers: exact in any order of summation.
    weights = np.round(sparse(rng, 20, 30, 0.4) * 4)
    packed = sc.pack(weights, "csr")
    x = rng.integers(-4, 5, (30, 12)).astype(np.float32)
    wanted = packed @ x
    wide = np.zeros((60, 24), np.float32)
    wide[::2, ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for same in (
        np.asfortranarray(x),
        x[::-1][::-1],
        wide[::2, ::2],
        frozen,
        x.astype(">f4"),
        x.astype(np.float64),
        x.astype(np.int8),
        x.tolist(),
    ):
        assert np.array_equal(packed @ same, wanted)
    assert np.array_equal(
        packed @ np.broadcast_to(x[:, :1], (30, 12)), np.repeat(packed @ x[:, :1], 12, axis=1)
    )
    assert np.array_equal(x.T @ packed.T, wanted.T)


def test_scipy_in_and_out():
    rng = np.random.default_rng(2)
    weights = sparse(rng, 33, 65, 0.2)
    for make in (sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array):
        packed = sc.pack(make(weights))
        assert np.array_equal(packed.to_dense(), weights)
    back = packed.to_scipy()
    assert (back != sp.csr_matrix(weights)).nnz == 0
    assert np.array_equal(packed.T.to_scipy().toarray(), weights.T)


@settings(max_examples=CASES // 5, deadline=None)
@given(
    m=st.integers(0, 70),
    k=st.integers(0, 150),
    n=st.integers(0, 200),
    density=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    target=st.sampled_from(sc._core.cpu_targets()),
)
def test_gradients_on_the_nonzeros(m, k, n, density, seed, target):
    rng = np.random.default_rng(seed)
    weights = sparse(rng, m, k, density)
    packed = sc.pack(weights, target=target)
    x, dy = rng.standard_normal((k, n), dtype=np.float32), rng.standard_normal((m, n), dtype=np.float32)
    wanted = dy.astype(np.float64) @ x.astype(np.float64).T
    bound = (n + 2) * 2 * UNIT * (np.abs(dy.astype(np.float64)) @ np.abs(x.astype(np.float64)).T)
    kept = weights != 0
    assert (np.abs(packed.sddmm(dy, x) - wanted[kept]) <= bound[kept]).all()
    # The gradients of the transposed matrix, in the order of its own values.
    assert (np.abs(packed.T.sddmm(x, dy) - wanted.T[kept.T]) <= bound.T[kept.T]).all()


def test_update_replaces_values_in_everything_packed():
    rng = np.random.default_rng(9)
    weights = sparse(rng, 60, 90, 0.2)
    for kind in FORMATS:
        packed = sc.pack(weights, kind[0], block=kind[1])
        x, dy = (
            rng.standard_normal((90, 30), dtype=np.float32),
            rng.standard_normal((60, 30), dtype=np.float32),
        )
        _ = packed @ x, packed @ x[:, 0], packed.T @ dy
        assert np.array_equal(packed.values, weights[weights != 0])
        fresh = weights.copy()
        fresh[weights != 0] = rng.standard_normal(packed.nnz)
        packed.update(fresh[weights != 0])
        assert np.array_equal(packed.to_dense(), fresh)
        check(fresh, x, packed @ x)
        check(fresh, x[:, 0], packed @ x[:, 0])
        check(fresh.T, dy, packed.T @ dy)


def test_update_of_weights_that_were_packed_when_zero():
    rng = np.random.default_rng(10)
    weights = sparse(rng, 60, 90, 0.2)
    x = rng.standard_normal((90, 30), dtype=np.float32)
    for kind in FORMATS:
        packed = sc.pack(weights, kind[0], block=kind[1])
        some = packed.values * (rng.random(packed.nnz) < 0.3)
        for values in (some, packed.values, some, np.zeros(packed.nnz), packed.values):
            packed.update(values)
            fresh = np.zeros_like(weights)
            fresh[weights != 0] = values
            check(fresh, x, packed @ x)
            check(fresh, x[:, 0], packed @ x[:, 0])
            check(fresh.T, x[:60], packed.T @ x[:60])


def test_bits_do_not_depend_on_threads():
    rng = np.random.default_rng(3)
    weights, x = sparse(rng, 300, 400, 0.3), rng.standard_normal((400, 150), dtype=np.float32)
    before = sc.get_num_threads()
    try:
        for kind in FORMATS:
            packed = sc.pack(weights, kind[0], block=kind[1])
            sc.set_num_threads(1)
            wanted = packed @ x
            for threads in (2, 3, 8):
                sc.set_num_threads(threads)
                for _ in range(20):
                    assert np.array_equal(packed @ x, wanted)
    finally:
        sc.set_num_threads(before)


MALFORMED = [
    ((2, 3), [0, 1], [0], [1]),
    ((2, 3), [0, 2, 1], [0], [1]),
    ((2, 3), [1, 1, 1], [0], [1]),
    ((2, 3), [0, 1, 2], [0, 3], [1, 1]),
    ((2, 3), [0, 1, 2], [0, -1], [1, 1]),
    ((2, 3), [0, 2, 2], [1, 1], [1, 1]),
    ((2, 3), [0, 2, 2], [2, 1], [1, 1]),
    ((2, 3), [0, 1, 2], [0], [1, 1]),
    ((2, 3), [0, -1, 2], [0, 1], [1, 1]),
    ((2, 3), [0, 1, 3], [0, 1], [1, 1]),
    ((2, 3), [], [], []),
    ((2**40, 2**40), [0], [], []),
]


def test_malformed_csr_is_refused_before_any_read():
    rng = np.random.default_rng(4)
    cases = list(MALFORMED)
    indptr, indices = np.array([0, 2, 3, 5]), np.array([0, 2, 1, 0, 3])
    while len(cases) < 300:
        a, b, shape = indptr.copy(), indices.copy(), (3, 4)
        if rng.random() < 0.5:
            a[rng.integers(4)] = rng.choice([-(2**62), -1, 6, 2**31, 2**62])
        else:
            b[rng.integers(5)] = rng.choice([-(2**62), -1, 4, 2**31, 2**62])
        cases.append((shape, a, b, np.ones(5)))
    for shape, starts, columns, values in cases:
        with pytest.raises(ValueError, match=r"indptr|indices|weights"):
            sc._core.PackedMatrix.from_csr(
                shape,
                np.array(starts, np.int64),
                np.array(columns, np.int64),
                np.array(values, np.float32),
                "csr",
                None,
                (8, 1),
                None,
                "f32",
            )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda w: sc.pack(w, "coo"),
            ValueError,
            "format: unknown name .*auto, bitmap, block, csr, dense, nm, pattern, stream, window",
        ),
        (lambda w: sc.pack(np.ones((2, 8)), "nm"), ValueError, 'format: "nm" is for .* 1:4, 2:4, 4:8'),
        (lambda w: sc.pack(w, "block", block=(3, 1)), ValueError, "block"),
        (lambda w: sc.pack(w, target="neon"), ValueError, "target: unknown name .*scalar, avx2, avx512"),
        (lambda w: sc.pack(w, storage="f64"), ValueError, "storage: unknown name .*f32, bf16, f16"),
        (lambda w: sc.pack(w, "csr", storage="f16"), ValueError, 'format, storage: "csr" and "dense"'),
        (lambda w: sc.pack(7e4 * w, storage="f16"), ValueError, 'weights: 70000 is beyond .* "f16"'),
        (
            lambda w: sc.pack(w, storage="f16").update(np.full(6, 7e4)),
            ValueError,
            'values: 70000 is beyond .* "f16"',
        ),
        (lambda w: sc.pack(w[0]), ValueError, "weights: expected 2 dimensions, got 1"),
        (
            lambda w: sc.pack(w.astype(complex)),
            TypeError,
            "weights: expected real numbers, got dtype complex128",
        ),
        (lambda w: sc.pack([["a"]]), TypeError, "weights: expected real numbers"),
        (lambda w: sc.pack(w, columns=0), ValueError, "columns"),
        (lambda w: sc.pack(w) @ np.ones(4), ValueError, r"x: expected shape \(3,\) or \(3, n\)"),
        (lambda w: sc.pack(w) @ np.ones((3, 2, 2)), ValueError, "x: expected shape"),
        (
            lambda w: sc.pack(w).sddmm(np.ones((3, 4)), np.ones((3, 4))),
            ValueError,
            r"dy: expected shape \(2,\)",
        ),
        (lambda w: sc.pack(w).sddmm(np.ones((2, 4)), np.ones((3, 5))), ValueError, "x: shape .* dy's"),
        (lambda w: sc.pack(w).update(np.ones(5)), ValueError, "values: 5 for 6 nonzeros"),
        (lambda w: sc.pack(w).update(np.ones((2, 3))), ValueError, "values: expected 1 dimension, got 2"),
        (lambda w: sc.pack(w).T.update(np.ones(6)), ValueError, "values: update the matrix itself"),
        (lambda w: sc.pack(w).matmul(np.ones(3), bias=np.ones(3)), ValueError, "bias"),
        (lambda w: sc.pack(w).matmul(np.ones(3), activation="swish"), ValueError, "activation: .*relu, tanh"),
        (lambda w: sc.pack(w).matmul(np.ones(3), out=np.ones(2)), TypeError, "out"),
        (lambda w: sc.pack(w).matmul(np.ones(3), out=np.ones(3, np.float32)), ValueError, "out"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(np.ones((2, 3), np.float32))
    assert "\n" not in str(caught.value)


def test_out_must_not_overlap_the_input():
    memory = np.ones(40, np.float32)
    packed = sc.pack(np.eye(20, dtype=np.float32))
    with pytest.raises(ValueError, match="out"):
        packed.matmul(memory[:20], out=memory[10:30])


def test_results_that_do_not_fit_into_memory_are_a_memory_error():
    n = 1 << 21  # n x n floats are 16 TiB
    tall = sc.pack(sp.csr_matrix(([1.0], ([3], [0])), shape=(n, 1)), "csr")
    with pytest.raises(MemoryError):
        tall @ np.zeros((1, n), np.float32)


def test_an_out_that_overlaps_an_input_by_another_array_is_refused():
    w = sc.pack(np.eye(4, dtype=np.float32))
    memory = bytearray(4 * 12)
    x, out = (np.frombuffer(memory, np.float32, 8, offset).reshape(4, 2) for offset in (0, 16))
    with pytest.raises(ValueError, match="out: overlaps an input"):
        w.matmul(x, out=out)
    beside = np.frombuffer(bytearray(4 * 16), np.float32)
    x[...] = 3
    assert np.array_equal(w.matmul(x, out=beside[:8].reshape(4, 2)), x)


@pytest.mark.parametrize(
    "activation", [None, "relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu", "hard_swish"]
)
def test_nan_stays_nan(activation, target):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(33, 20)).astype(np.float32)
    for n in (1, 5, 40):
        x = rng.normal(size=(20, n)).astype(np.float32)
        x[7, n // 2] = np.nan
        for format in ("csr", "pattern", "block", "dense"):
            y = sc.pack(w, format, columns=n, target=target).matmul(x, activation=activation)
            assert np.isnan(y[:, n // 2]).all() and np.isfinite(np.delete(y, n // 2, axis=1)).all()
