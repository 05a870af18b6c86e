"""Data sets: shapes, ranges, splits; bad files are refused."""

import builtins
import gzip
import os
import struct
import zipfile

import numpy as np
import pytest

import secateur as sc
from secateur import datasets

ROOT = os.environ.get("SECATEUR_DATA", "")
needs_fashion = pytest.mark.skipif(
    not datasets.find("fashion-mnist", tuple(datasets._FILES)), reason="Fashion-MNIST is not at hand"
)


def check(split, n, shape=(1, 28, 28), classes=10):
    x, y = split
    assert x.shape == (n, *shape)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert (x.min(), x.max()) == (0.0, 1.0)
    assert y.dtype == np.int64
    assert np.unique(y).tolist() == list(range(classes))


def test_digits_are_stratified_and_always_the_same():
    train, test = datasets.load("digits")
    check(train, 1442)
    check(test, 355)
    shares = np.bincount(test[1]) / (np.bincount(train[1]) + np.bincount(test[1]))
    assert np.abs(shares - 0.2).max() < 0.01
    # A pixel is three wide, the frame two.
    x = test[0][0, 0]
    assert not x[:2].any()
    assert not x[:, -2:].any()
    assert (x[2:26, 2:26] == np.kron(x[2:26:3, 2:26:3], np.ones((3, 3), np.float32))).all()
    again = datasets.load("digits")
    assert (again[1][0] == test[0]).all()


@needs_fashion
def test_fashion_mnist():
    train, test = datasets.load("fashion-mnist")
    check(train, 60_000)
    check(test, 10_000)
    assert (np.bincount(test[1]) == 1000).all()


def test_damaged_and_missing_fashion_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = builtins.__import__

    def no_pooch(name, *args, **kwargs):
        if name == "pooch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pooch)
    with pytest.raises(sc.MissingExtraError, match=r"secateur\[data\]"):
        datasets.load("fashion-mnist")
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for content in (b"", b"not gzip", gzip.compress(b"short"), gzip.compress(bytes(50_000_000))[:-9]):
        for name in datasets._FILES:
            (folder / name).write_bytes(content)
        with pytest.raises(sc.FormatError, match="train-images"):
            datasets.load("fashion-mnist")


def test_npz_with_and_without_a_test_set(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (50, 9, 7), dtype=np.uint8), np.arange(50) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    (x_train, _), (x_test, y_test) = datasets.load(tmp_path / "a.npz")
    assert x_train.shape == (40, 1, 9, 7)
    assert x_test.shape == (10, 1, 9, 7)
    assert np.bincount(y_test).tolist() == [5, 5]
    assert x_train.max() <= 1
    floats = rng.normal(size=(6, 3, 4, 4))
    np.savez(tmp_path / "b.npz", x=floats, y=np.zeros(6, np.uint8), x_test=floats[:2], y_test=[0, 1])
    (x_train, _), (x_test, y_test) = datasets.load(str(tmp_path / "b.npz"))
    assert (x_test == floats[:2].astype(np.float32)).all()
    assert y_test.tolist() == [0, 1]


def test_keras_names_and_a_folder_around(tmp_path):
    x, y = np.arange(160.0).reshape(10, 4, 4), np.arange(10) % 2
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    (x_train, y_train), (x_test, _) = datasets.load(tmp_path)
    assert np.array_equal(x_train[:, 0], x) and np.array_equal(y_train, y)
    assert len(x_test) == 3


IMAGES, LABELS = np.zeros((10, 4, 4)), np.zeros(10, int)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES}, "expected arrays x and y, got x"),
        ({}, "got neither"),
        ({"x": IMAGES, "y": LABELS[:9]}, "y: expected 10 integers"),
        ({"x": IMAGES, "y": LABELS + 0.5}, "y: expected 10 integers, got float64"),
        ({"x": IMAGES, "y": LABELS - 1}, "y: expected labels from 0, got -1"),
        ({"x": IMAGES[0], "y": LABELS}, "x: expected numbers of shape"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, "x: expected numbers of shape"),
        ({"x": IMAGES.astype(str), "y": LABELS}, "x: expected numbers of shape"),
        ({"x": IMAGES + np.nan, "y": LABELS}, "x: expected finite"),
        ({"x": IMAGES, "y": LABELS, "x_test": IMAGES}, "both x_test and y_test"),
        ({"x": IMAGES, "y": LABELS, "x_test": IMAGES[:, 1:], "y_test": LABELS}, "x_test: expected images"),
        ({"x": IMAGES[:4], "y": LABELS[:4]}, "at least 5"),
    ],
)
def test_npz_that_does_not_fit_together(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load(tmp_path / "a.npz")
    assert str(tmp_path / "a.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_npz(tmp_path):
    np.savez(tmp_path / "object.npz", x=np.array([print, 1], object), y=LABELS)
    np.savez(tmp_path / "good.npz", x=IMAGES, y=LABELS)
    data = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:-30])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "array", IMAGES)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("object", "cut", "text", "empty", "array", "missing"):
        with pytest.raises(sc.FormatError, match=name) as caught:
            datasets.load(tmp_path / f"{name}.npz")
        assert "\n" not in str(caught.value)


def test_unknown_names_list_the_choices():
    for name in ("mnist", "", "file.csv"):
        with pytest.raises(ValueError, match="choose from digits, fashion-mnist"):
            datasets.load(name)


def hostile(folder, header=b"", method=zipfile.ZIP_STORED, flags=0, broken=False):
    """An .npz file with one array, by its header, its compression or its flags a trap."""
    shown = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    path = folder / "bad.npz"
    with zipfile.ZipFile(path, "w", method if method != 99 else zipfile.ZIP_STORED) as file:
        file.writestr("x.npy", shown + bytes(64))
    content = bytearray(path.read_bytes())
    for mark, flag, kind in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        at = content.index(mark)
        content[at + flag] |= flags
        if method == 99:
            content[at + kind] = 99
    if broken:
        content[60:70] = bytes(10)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "trap",
    [
        {"header": b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1" + b"0" * 30 + b",)}\n"},
        {"header": b"{'descr': (\n"},
        {"header": b"{'descr': (), 'fortran_order': False, 'shape': (1,)}\n"},
        {"flags": 1},
        {"method": 99},
        {"method": zipfile.ZIP_LZMA, "broken": True},
    ],
)
def test_hostile_npz_files_are_a_format_error(tmp_path, trap):
    with pytest.raises(sc.FormatError, match=r"bad\.npz: no \.npz file of arrays"):
        datasets.npz_arrays(hostile(tmp_path, **trap))
