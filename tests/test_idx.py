"""MNIST's format: what is in its files, and what is refused."""

import gzip
import struct

import numpy as np
import pytest

import secateur as sc
from secateur import datasets, idx

CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def encoded(array, dtype="u1"):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[dtype], array.ndim, *array.shape)
    return header + array.astype(dtype).tobytes()


def folder(path, test=True, packed=False, n=20):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", n), ("t10k", 10))[: 1 + test]:
        x, y = rng.integers(0, 256, (count, 6, 5)), np.arange(count) % 2
        for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
            data = encoded(array)
            (path / (name + ".gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
        arrays[part] = x, y
    return arrays


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 3, 5)])
@pytest.mark.parametrize("packed", [False, True])
def test_every_type(dtype, shape, packed, tmp_path):
    array = (np.arange(np.prod(shape)).reshape(shape) - (dtype != "u1")).astype(dtype)
    data = encoded(array, dtype)
    (tmp_path / "a").write_bytes(gzip.compress(data) if packed else data)
    found = idx.read(tmp_path / "a")
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(found, array)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_is_a_data_set(packed, tmp_path):
    arrays = folder(tmp_path, packed=packed)
    (tmp_path / "README-train-images").write_text("not one of them")
    for part, (x, y) in zip(("train", "t10k"), datasets.load(tmp_path), strict=True):
        assert x.dtype == np.float32 and y.dtype == np.int64
        np.testing.assert_array_equal(x[:, 0], arrays[part][0].astype(np.float32) / 255)
        np.testing.assert_array_equal(y, arrays[part][1])


def test_without_test_files_every_fifth_of_a_class_is_one(tmp_path):
    folder(tmp_path, test=False)
    (x, _), (x_test, y_test) = datasets.load(str(tmp_path))
    assert x.shape == (16, 1, 6, 5) and x_test.shape == (4, 1, 6, 5)
    assert np.bincount(y_test).tolist() == [2, 2]


def test_damaged_files_are_refused(tmp_path):
    good = encoded(np.zeros((2, 3)))
    bad = {
        "empty": b"",
        "text": b"hello world",
        "header": good[:9],
        "short": good[:-1],
        "long": good + b"\0",
        "type": b"\0\0\x07" + good[3:],
        "scalar": b"\0\0\x08\0",
        "huge": struct.pack(">BBBB9I", 0, 0, 8, 9, *[2**32 - 1] * 9) + bytes(100),
        "gzip": gzip.compress(good)[:-9],
        "no gzip": b"\x1f\x8b" + bytes(20),
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(sc.FormatError, match="no idx file") as error:
            idx.read(tmp_path / name)
        assert "\n" not in str(error.value) and name in str(error.value)
    with pytest.raises(sc.FormatError, match="no such file"):
        idx.read(tmp_path / "missing")


def test_folders_without_a_data_set_are_refused(tmp_path):
    with pytest.raises(sc.FormatError, match="no idx files of training images and labels"):
        datasets.load(tmp_path)
    folder(tmp_path)
    (tmp_path / "emnist-train-images-idx3-ubyte").write_bytes(encoded(np.zeros((2, 3, 3))))
    with pytest.raises(sc.FormatError, match=r"both .* could be the x"):
        datasets.load(tmp_path)
    (tmp_path / "emnist-train-images-idx3-ubyte").unlink()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encoded(np.zeros(3)))
    with pytest.raises(ValueError, match="y: expected 20 integers"):
        datasets.load(tmp_path)
