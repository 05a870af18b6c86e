"""Data sets of images: digits, Fashion-MNIST, ``.npz`` and idx files; and of named entities: WNUT-17."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import conll, idx
from .errors import FormatError, MissingExtraError

Images: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]
Split: TypeAlias = tuple[Images, Labels]
Sentences: TypeAlias = list[conll.Sentence]

TEST_EVERY = 5
"""Of data without a test set, every fifth sample of each class becomes one."""


def load(data: str | os.PathLike[str]) -> tuple[Split, Split]:
    """Load images and labels, split into training and test set.

    Parameters
    ----------
    data : {"digits", "fashion-mnist"} or path-like
        - ``"digits"``: the 1,797 8×8 digits that scikit-learn brings along, every pixel tripled and 2
          pixels of padding around: 28×28, as large as Fashion-MNIST. Every fifth of a class is for testing.
        - ``"fashion-mnist"``: 60,000 and 10,000 28×28 images of clothes (Xiao, Rasul & Vollgraf, arXiv
          1708.07747; MIT licence), looked for in ``$SECATEUR_DATA/fashion-mnist``, then in the cache
          (``$XDG_CACHE_HOME/secateur`` or ``~/.cache/secateur``), then downloaded into it.
        - the path of an ``.npz`` file with ``x`` of shape (n, height, width) or (n, channels, height, width)
          and integers ``y`` of shape (n,); ``x_test`` and ``y_test`` for a test set, else every fifth
          sample of a class is for testing. uint8 images are divided by 255, others are taken as they are.
          Keras' names ``x_train`` and ``y_train`` will do as well.
        - the path of a folder with one such file, or with MNIST's four idx files,
          ``train-images-idx3-ubyte`` and so on, gzipped or not; without those for testing, as above.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        Images of shape (n, channels, height, width), float32, in [0, 1] (``.npz`` files without uint8:
        as there); labels of shape (n,), int64, from 0.

    Raises
    ------
    ValueError
        If there is no such data set, or the arrays of a file or folder do not fit together.
    FormatError
        If a file is missing, damaged, or not of its format.
    MissingExtraError
        If scikit-learn or pooch is needed and not installed.

    Examples
    --------
    >>> from secateur import datasets
    >>> (x_train, y_train), (x_test, y_test) = datasets.load("digits")
    >>> x_train.shape, x_test.shape, x_train.dtype.name
    ((1442, 1, 28, 28), (355, 1, 28, 28), 'float32')
    """
    if data == "digits":
        return _digits()
    if data == "fashion-mnist":
        return _fashion_mnist()
    if str(data).endswith(".npz"):
        return _splits(Path(data), _training(npz_arrays(Path(data))))
    if str(data) and Path(data).is_dir():
        npz = list(Path(data).glob("*.npz"))
        return load(npz[0]) if len(npz) == 1 else _splits(Path(data), idx.arrays(Path(data)))
    choices = "digits, fashion-mnist, or the path of an .npz file or of a folder with idx files"
    raise ValueError(f"data: unknown data set {str(data)!r}; choose from {choices}")


def _split(x: Images, y: Labels) -> tuple[Split, Split]:
    """Every `TEST_EVERY`-th sample of each class apart: needs no random numbers, whose streams change."""
    test = np.zeros(len(y), bool)
    for label in np.unique(y):
        test[np.flatnonzero(y == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return (x[~test], y[~test]), (x[test], y[test])


def _digits() -> tuple[Split, Split]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError(
            "data: the digits come with scikit-learn; pip install 'secateur[demo]'"
        ) from error
    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32).repeat(3, axis=1).repeat(3, axis=2)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return _split(padded[:, None], bunch.target.astype(np.int64))


# Fashion-MNIST

_SOURCE = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
# File: MD5 of the publisher's compressed file (their README), SHA-256 and shape of what is inside.
_FILES = {
    "train-images-idx3-ubyte.gz": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        (60_000, 28, 28),
    ),
    "train-labels-idx1-ubyte.gz": (
        "25c81989df183df01b3e8a0aad5dffbe",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        (60_000,),
    ),
    "t10k-images-idx3-ubyte.gz": (
        "bef4ecab320f06d8554ea6380940ec79",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        (10_000, 28, 28),
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "bb300cfdad3c16e7a12a480ee83cd310",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        (10_000,),
    ),
}


def cache_folder() -> Path:
    """Where downloads are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "secateur"


def find(name: str, files: tuple[str, ...]) -> Path | None:
    """The folder with all files of a data set, in ``$SECATEUR_DATA`` or the cache; None if none has."""
    given = os.environ.get("SECATEUR_DATA")
    folders = [Path(given) / name] if given else []
    folders.append(cache_folder() / name)
    return next((folder for folder in folders if all((folder / file).is_file() for file in files)), None)


def _fashion_mnist() -> tuple[Split, Split]:
    hashes = {name: f"md5:{md5}" for name, (md5, _, _) in _FILES.items()}
    folder = folder_of("fashion-mnist", _SOURCE, hashes)
    x_train, y_train, x_test, y_test = (_idx(folder / name) for name in _FILES)
    return _as_split(x_train, y_train), _as_split(x_test, y_test)


def folder_of(data: str, source: str, hashes: dict[str, str]) -> Path:
    """The folder with the files of a data set, downloaded if need be."""
    if folder := find(data, tuple(hashes)):
        return folder
    try:
        import pooch
    except ImportError as error:
        raise MissingExtraError(
            f"data: {data} is neither in $SECATEUR_DATA nor in the cache; to download it, "
            "pip install 'secateur[data]'"
        ) from error
    folder = cache_folder() / data
    for name, known in hashes.items():
        pooch.retrieve(source + name, known_hash=known, fname=name, path=folder)
    return folder


def _idx(path: Path) -> NDArray[np.uint8]:
    """The array in one of Fashion-MNIST's files."""
    _, sha256, shape = _FILES[path.name]
    header = 4 + 4 * len(shape)
    size = header + int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            # One byte more than there should be: a file that goes on is not read on.
            content = file.read(size + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise FormatError(f"{path}: {error}") from error
    check_hash(path, content, sha256)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def check_hash(path: Path, content: bytes, sha256: str) -> None:
    """A FormatError unless a file of a data set is the one that its publisher has."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise FormatError(f"{path}: damaged; remove it to download it again")


def _as_split(x: NDArray[Any], y: NDArray[Any]) -> Split:
    images = x.astype(np.float32)
    if x.dtype == np.uint8:
        images /= 255
    if images.ndim == 3:
        images = images[:, None]
    return images, y.astype(np.int64)


# WNUT-17

_WNUT17_SOURCE = "https://github.com/leondz/emerging_entities_17/raw/master/"
# For training, validation and testing: file and hash.
_WNUT17 = {
    "wnut17train.conll": "sha256:731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5",
    "emerging.dev.conll": "sha256:e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8",
    "emerging.test.annotated": "sha256:2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0",
}


def load_tagging(data: str) -> tuple[Sentences, Sentences, Sentences]:
    """Load sentences with tagged named entities.

    Parameters
    ----------
    data : {"wnut17"}
        WNUT-17, new and rare entities (Derczynski, Nichols, van Erp & Limsopatham, W-NUT 2017; CC-BY 4.0):
        six types in 3,394 tweets, 1,009 comments on YouTube, and 1,287 texts from Twitter, Reddit and
        Stack Overflow. Found or downloaded as `load` does it with Fashion-MNIST.

    Returns
    -------
    train, validation, test : list of Sentence
        As `secateur.conll.read` gives them.

    Raises
    ------
    ValueError
        If there is no such data set.
    FormatError
        If a file is damaged.
    MissingExtraError
        If pooch is needed and not installed.
    """
    if data != "wnut17":
        raise ValueError(f"data: unknown data set {data!r}; choose from wnut17")
    folder = folder_of(data, _WNUT17_SOURCE, _WNUT17)
    train, validation, test = (_conll(folder / name) for name in _WNUT17)
    return train, validation, test


def _conll(path: Path) -> Sentences:
    try:
        check_hash(path, path.read_bytes(), _WNUT17[path.name].removeprefix("sha256:"))
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from error
    return conll.read(path)


# Files of others

_NAMES = ("x_train", "y_train", "x", "y", "x_test", "y_test")


def npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name; FormatError if it is none."""
    try:
        # Without pickle: object arrays could run code.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file") from error
    except Exception as error:  # zipfile, its decompressors and NumPy's parser of headers have many
        raise FormatError(f"{path}: no .npz file of arrays ({' '.join(str(error).split())})") from error


def _training(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removesuffix("_train"): arrays[name] for name in _NAMES if name in arrays}


def _splits(path: Path, arrays: dict[str, NDArray[Any]]) -> tuple[Split, Split]:
    """Training and test set of the arrays x, y, x_test, y_test that came from `path`."""
    if not {"x", "y"} <= arrays.keys():
        raise ValueError(f"{path}: expected arrays x and y, got {', '.join(arrays) or 'neither'}")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"{path}: expected both x_test and y_test, or neither")
    train = _checked(path, "x", arrays["x"], "y", arrays["y"])
    if "x_test" not in arrays:
        train, test = _split(*train)
        if not len(test[0]):
            raise ValueError(f"{path}: y: expected at least {TEST_EVERY} samples of a class")
        return train, test
    test = _checked(path, "x_test", arrays["x_test"], "y_test", arrays["y_test"])
    if test[0].shape[1:] != train[0].shape[1:]:
        raise ValueError(f"{path}: x_test: expected images of {train[0].shape[1:]}, got {test[0].shape[1:]}")
    return train, test


def _checked(path: Path, x_name: str, x: NDArray[Any], y_name: str, y: NDArray[Any]) -> Split:
    if x.ndim not in (3, 4) or x.dtype.kind not in "uif" or not x.size:
        expected = "numbers of shape (n, height, width) or (n, channels, height, width)"
        raise ValueError(f"{path}: {x_name}: expected {expected}, got {x.dtype} of shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{path}: {x_name}: expected finite numbers")
    if y.dtype.kind not in "ui" or y.shape != x.shape[:1]:
        raise ValueError(f"{path}: {y_name}: expected {len(x)} integers, got {y.dtype} of shape {y.shape}")
    if y.min() < 0:
        raise ValueError(f"{path}: {y_name}: expected labels from 0, got {y.min()}")
    return _as_split(x, y)
