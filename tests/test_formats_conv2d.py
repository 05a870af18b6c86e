"""Packed convolutions and their gradients against float64, over shapes, paddings and bad input."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import reference
import secateur as sc

CASES = int(os.environ.get("SECATEUR_CASES", "500"))
FORMATS = ["auto", "csr", "pattern", "block"]
UNIT = 2.0**-24


def filters(rng, shape, density):
    weight = rng.standard_normal(shape, dtype=np.float32)
    return np.where(rng.random(shape) < density, weight, np.float32(0))


def images(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=CASES // 2, deadline=None)
@given(
    groups=st.integers(1, 3),
    channels=st.integers(1, 5),
    of_group=st.integers(1, 9),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=pairs,
    dilation=pairs,
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    size=st.tuples(st.integers(1, 18), st.integers(1, 18)),
    n=st.sampled_from([0, 1, 2, 7, 9, 17, 33]),
    density=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    format=st.sampled_from(FORMATS),
    target=st.sampled_from(sc._core.cpu_targets()),
)
def test_products(
    groups, channels, of_group, kernel, strides, dilation, pads, size, n, density, seed, format, target
):
    outer = (size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3])
    axes = zip(outer, kernel, dilation, strict=True)
    assume(all(length > (k - 1) * d for length, k, d in axes))
    rng = np.random.default_rng(seed)
    weight = filters(rng, (groups * of_group, channels, *kernel), density)
    options = {"stride": strides, "padding": pads, "dilation": dilation, "groups": groups}
    conv = sc.pack_conv2d(weight, **options, format=format, target=target)
    x = images(rng, n, groups * channels, *size)
    bias = images(rng, groups * of_group)
    geometry = (strides, pads, dilation, groups)
    wanted = reference.conv2d(x, weight, None, *geometry)
    y = conv(x)
    sizes = reference.conv2d(np.abs(x), np.abs(weight), None, *geometry)
    terms = channels * kernel[0] * kernel[1] + 2
    assert y.shape == wanted.shape and y.dtype == np.float32
    assert (np.abs(y - wanted) <= 2 * terms * UNIT * sizes).all()
    activated = np.tanh(wanted + bias[:, None, None])
    np.testing.assert_allclose(conv(x, bias, "tanh"), activated, rtol=1e-4, atol=1e-4)

    dy = images(rng, *y.shape)
    dx, dw, dx_sizes, dw_sizes = reference.conv2d_gradients(x, weight, dy, *geometry)
    terms = of_group * kernel[0] * kernel[1] + 2
    assert (np.abs(conv.grad_input(dy, size) - dx) <= 2 * terms * UNIT * dx_sizes).all()
    kept, terms = weight != 0, n * y.shape[2] * y.shape[3] + 2
    assert (np.abs(conv.sddmm(dy, x) - dw[kept]) <= (2 * terms * UNIT * dw_sizes)[kept]).all()
    assert np.array_equal(conv.to_dense(), weight) and np.array_equal(conv.values, weight[kept])
    assert conv.shape == weight.shape and conv.nnz == kept.sum()


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_gradients_are_adjoint_to_the_convolution(strides):
    """<conv(x), dy> = <x, grad_input(dy)> = <values, sddmm(dy, x)>."""
    rng = np.random.default_rng(5)
    for n, size in [(1, (30, 21)), (16, (14, 14)), (20, (7, 9))]:
        conv = sc.pack_conv2d(filters(rng, (24, 10, 3, 3), 0.2), stride=strides, padding="same", groups=2)
        x = images(rng, n, 20, *size)
        dy = images(rng, *conv(x).shape)
        of_y = np.vdot(conv(x).astype(np.float64), dy)
        assert np.vdot(conv.grad_input(dy, size).astype(np.float64), x) == pytest.approx(of_y, rel=1e-4)
        assert np.vdot(conv.sddmm(dy, x).astype(np.float64), conv.values) == pytest.approx(of_y, rel=1e-4)


def test_paddings():
    rng = np.random.default_rng(6)
    weight, x = filters(rng, (3, 2, 3, 2), 0.5), images(rng, 2, 2, 8, 9)
    for padding, pads, stride in [
        (2, (2, 2, 2, 2), 1),
        ((1, 2), (1, 2, 1, 2), 1),
        ((0, 1, 2, 3), (0, 1, 2, 3), 2),
        ("valid", (0, 0, 0, 0), 2),
        ("same", reference.same_pads((8, 9), (3, 2), (2, 2)), 2),
        (np.int64(1), (1, 1, 1, 1), (np.int32(1), 1)),
    ]:
        y = sc.pack_conv2d(weight, padding=padding, stride=stride)(x)
        step = stride if isinstance(stride, tuple) else (stride, stride)
        np.testing.assert_allclose(y, reference.conv2d(x, weight, None, step, pads), rtol=1e-4, atol=1e-5)


def test_agrees_with_the_layer():
    layer = sc.nn.Conv2D(6, 3, 2, "same", dilation=2, groups=2)
    layer.build((4, 11, 13), np.random.default_rng(7))
    rng = np.random.default_rng(7)
    layer.params["weight"] = filters(rng, layer.params["weight"].shape, 0.4)
    weight, x = layer.params["weight"], images(rng, 5, 4, 11, 13)
    conv = sc.pack_conv2d(weight, stride=2, padding="same", dilation=2, groups=2)
    y = layer.forward(x, training=True)
    np.testing.assert_allclose(conv(x, layer.params["bias"]), y, rtol=1e-4, atol=1e-5)
    dy = images(rng, *y.shape)
    np.testing.assert_allclose(conv.grad_input(dy, (11, 13)), layer.backward(dy), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(conv.sddmm(dy, x), layer.grads["weight"][weight != 0], rtol=1e-4, atol=1e-4)


def test_update_replaces_values_in_everything_packed():
    rng = np.random.default_rng(8)
    weight = filters(rng, (20, 6, 3, 3), 0.3)
    for format in FORMATS:
        conv = sc.pack_conv2d(weight, padding=1, stride=2, format=format)
        before = conv.nbytes
        x, dy = images(rng, 3, 6, 9, 9), images(rng, 3, 20, 5, 5)
        _ = conv(x), conv.grad_input(dy, (9, 9)), conv.sddmm(dy, x)
        packed = conv.nbytes
        assert packed > before
        fresh = weight.copy()
        fresh[weight != 0] = rng.standard_normal(conv.nnz)
        conv.update(fresh[weight != 0])
        assert np.array_equal(conv.to_dense(), fresh) and conv.nbytes == packed
        again = sc.pack_conv2d(fresh, padding=1, stride=2, format=format)
        assert np.array_equal(conv(x), again(x))
        assert np.array_equal(conv.grad_input(dy, (9, 9)), again.grad_input(dy, (9, 9)))
        assert conv.kernel.startswith("spmm_") and "PackedConv2D(20 x 6 x 3 x 3" in repr(conv)


def test_out_and_inputs_of_any_layout():
    rng = np.random.default_rng(9)
    conv = sc.pack_conv2d(np.round(filters(rng, (4, 3, 3, 3), 0.5) * 4), padding=1)
    x = rng.integers(-4, 5, (2, 3, 6, 7)).astype(np.float32)
    y = conv(x)
    out, dx, values = np.full_like(y, np.nan), np.full_like(x, np.nan), np.full(conv.nnz, np.nan, np.float32)
    assert conv(x, out=out) is out and np.array_equal(out, y)
    assert conv.grad_input(y, (6, 7), out=dx) is dx and np.array_equal(dx, conv.grad_input(y, (6, 7)))
    assert conv.sddmm(y, x, out=values) is values and np.array_equal(values, conv.sddmm(y, x))
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for same in (last, x[::-1][::-1], x.astype(">f4"), x.astype(np.float64), x.astype(np.int8), x.tolist()):
        assert np.array_equal(conv(same), y)


def test_out_must_not_overlap_the_input():
    memory = np.ones(200, np.float32)
    conv = sc.pack_conv2d(np.ones((1, 1, 1, 1)))
    x, out = memory[:100].reshape(1, 1, 10, 10), memory[50:150].reshape(1, 1, 10, 10)
    for call in (
        lambda: conv(x, out=out),
        lambda: conv.grad_input(x, (10, 10), out=out),
        lambda: conv.sddmm(x, x, out=memory[3:4]),
    ):
        with pytest.raises(ValueError, match="out"):
            call()


def test_bits_do_not_depend_on_threads():
    rng = np.random.default_rng(10)
    before = sc.get_num_threads()
    try:
        for n, size in [(1, (40, 40)), (5, (14, 14)), (33, (7, 7))]:
            conv = sc.pack_conv2d(filters(rng, (40, 24, 3, 3), 0.3), padding=1)
            x, dy = images(rng, n, 24, *size), images(rng, n, 40, *size)
            found = []
            for threads in (1, 2, 3, 8):
                sc.set_num_threads(threads)
                found.append((conv(x), conv.grad_input(dy, size), conv.sddmm(dy, x)))
            for products in found[1:]:
                assert all(np.array_equal(a, b) for a, b in zip(products, found[0], strict=True))
    finally:
        sc.set_num_threads(before)


def test_called_and_updated_from_many_threads():
    rng = np.random.default_rng(11)
    conv = sc.pack_conv2d(filters(rng, (8, 4, 3, 3), 0.5), padding=1)
    values = conv.values
    wanted = {}
    for size in range(3, 11):
        x = images(rng, 2, 4, size, size)
        wanted[size] = (x, conv(x))
    wrong = []

    def work(seed):
        order = np.random.default_rng(seed)
        for _ in range(50):
            x, y = wanted[int(order.integers(3, 11))]
            conv.update(values)
            if not np.array_equal(conv(x), y):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong and not any(worker.is_alive() for worker in workers)


X, DY = np.ones((2, 3, 5, 5)), np.ones((2, 4, 3, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda w: sc.pack_conv2d(w, format="bitmap"), ValueError, "format: .*auto, block, csr, pattern"),
        (lambda w: sc.pack_conv2d(w, format="coo"), ValueError, "format: unknown name"),
        (lambda w: sc.pack_conv2d(w, target="neon"), ValueError, "target: unknown name"),
        (lambda w: sc.pack_conv2d(w[0]), ValueError, "weight: expected 4 dimensions, got 3"),
        (lambda w: sc.pack_conv2d(w.astype(complex)), TypeError, "weight: expected real numbers"),
        (lambda w: sc.pack_conv2d(w[:0]), ValueError, "weight: expected at least one filter"),
        (lambda w: sc.pack_conv2d(w, stride=0), ValueError, "stride: expected 1 or 2 integers of 1 or more"),
        (lambda w: sc.pack_conv2d(w, stride=(1, 2, 3)), ValueError, "stride"),
        (lambda w: sc.pack_conv2d(w, stride=1.5), TypeError, "stride: expected an integer, got float"),
        (lambda w: sc.pack_conv2d(w, dilation=2**20), ValueError, "dilation: expected 1 to 65535"),
        (lambda w: sc.pack_conv2d(w, padding=-1), ValueError, "padding: expected 1 or 2 or 4 integers of 0"),
        (lambda w: sc.pack_conv2d(w, padding=(1, 2, 3)), ValueError, "padding"),
        (lambda w: sc.pack_conv2d(w, padding=2**17), ValueError, "padding: expected 0 to 65535"),
        (lambda w: sc.pack_conv2d(w, padding="full"), ValueError, "padding: unknown name .*same, valid"),
        (lambda w: sc.pack_conv2d(w, groups=3), ValueError, "groups: 3 does not divide"),
        (lambda w: sc.pack_conv2d(w, groups=2**31 - 1), ValueError, "groups"),
        (lambda w: sc.pack_conv2d(w)(X[0]), ValueError, r"x: expected shape \(n, 3, h, w\)"),
        (lambda w: sc.pack_conv2d(w)(X[:, :2]), ValueError, r"x: expected shape \(n, 3, h, w\)"),
        (lambda w: sc.pack_conv2d(w)(X[:, :, :2]), ValueError, "x: a window of 3 x 3 does not fit"),
        (lambda w: sc.pack_conv2d(w)(X, bias=np.ones(3)), ValueError, "bias: 3 values for 4 filters"),
        (lambda w: sc.pack_conv2d(w)(X, activation="swish"), ValueError, "activation: .*relu, tanh"),
        (lambda w: sc.pack_conv2d(w)(X, out=np.ones(3)), TypeError, "out"),
        (lambda w: sc.pack_conv2d(w)(X, out=np.ones(3, np.float32)), ValueError, "out: expected shape"),
        (
            lambda w: sc.pack_conv2d(w).grad_input(DY, (6, 5)),
            ValueError,
            r"dy: expected shape \(n, 4, 4, 3\)",
        ),
        (lambda w: sc.pack_conv2d(w).grad_input(X, (5, 5)), ValueError, r"dy: expected shape \(n, 4, h, w\)"),
        (lambda w: sc.pack_conv2d(w).grad_input(DY, (2, 5)), ValueError, "x: a window"),
        (lambda w: sc.pack_conv2d(w).grad_input(DY, (2**60, 2**60)), ValueError, "too large"),
        (lambda w: sc.pack_conv2d(w).sddmm(DY[:1], X), ValueError, "dy: expected 2 images, as in x, got 1"),
        (
            lambda w: sc.pack_conv2d(w).sddmm(DY, X[:, :, 1:]),
            ValueError,
            r"dy: expected shape \(n, 4, 2, 3\)",
        ),
        (lambda w: sc.pack_conv2d(w).update(np.ones(5)), ValueError, "values: 5 for 108 nonzeros"),
        (lambda w: sc.pack_conv2d(w).update(np.ones((2, 54))), ValueError, "values: expected 1 dimension"),
        (lambda w: bool(sc.pack_conv2d(w)), TypeError, "ambiguous"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(np.ones((4, 3, 3, 3), np.float32))
    assert "\n" not in str(caught.value)
