"""Files: bit-exact round trips, crashes while writing, damage while reading."""

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import secateur as sc
from secateur import _core, storage

CASES = int(os.environ.get("SECATEUR_CASES", "500"))
GOLDEN = Path(__file__).parent / "data"
META = {"kind": "test", "note": "ä ☂"}


def sample() -> tuple[dict, dict, dict]:
    """One of everything that a file can hold. Fixed for ever: the golden file of version 1 holds it."""
    weight = np.arange(-8, 22, dtype=np.float32).reshape(2, 3, 5) / 4
    mask = np.arange(30).reshape(2, 3, 5) % 3 == 0
    tensors = {
        "conv2d.weight": np.where(mask, weight, np.float32(0)),
        "conv2d.bias": np.array([-0.0, np.inf, -np.inf, 1e-45, np.nan], np.float32),
        "double": np.array([[np.pi], [-0.0]]),
        "step": np.array(-(2**62)),
        "bytes": np.arange(7, dtype=np.uint8),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }
    return tensors, {"conv2d.weight": mask}, META


def same(a: dict, b: dict) -> bool:
    """Equal names, shapes, types and bits."""
    return a.keys() == b.keys() and all(
        (a[k].shape, a[k].dtype, a[k].tobytes()) == (b[k].shape, b[k].dtype, b[k].tobytes()) for k in a
    )


def test_everything_comes_back_and_saves_to_the_same_bytes():
    tensors, masks, metadata = sample()
    data = _core.encode(tensors, masks, metadata)
    found = _core.decode(data)
    assert same(found[0], tensors)
    assert same(found[1], masks)
    assert found[2] == metadata
    assert _core.encode(*found) == data
    assert _core.encode(dict(reversed(tensors.items())), masks, dict(reversed(metadata.items()))) == data


def test_golden_file_of_version_1():
    data = (GOLDEN / "v1-tensors.safetensors").read_bytes()
    tensors, masks, metadata = sample()
    found = _core.decode(data)
    assert same(found[0], tensors)
    assert same(found[1], masks)
    assert found[2] == metadata
    assert _core.encode(tensors, masks, metadata) == data


@settings(max_examples=CASES, deadline=None)
@given(st.data())
def test_any_array_and_mask_come_back_bit_by_bit(data):
    dtype = data.draw(st.sampled_from(["f4", "f8", "i8", "u1", "?"]))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    raw = data.draw(hnp.arrays("u1", (int(np.prod(shape)), np.dtype(dtype).itemsize)))
    array = np.ascontiguousarray(raw % 2 if dtype == "?" else raw).view(dtype).reshape(shape)
    mask = data.draw(st.none() | hnp.arrays("?", shape))
    masks = {}
    if mask is not None:
        array = np.where(mask, array, np.zeros((), dtype)).astype(dtype)
        # np.where may quieten signalling NaNs; what counts is that the store returns what it was given.
        masks = {"a": mask}
    found = _core.decode(_core.encode({"a": array}, masks, META))
    assert same(found[0], {"a": array})
    assert same(found[1], masks)


@pytest.mark.parametrize("change", ["F", "negative", "zero", "sliced", "readonly", "misaligned"])
def test_any_memory_layout_is_read(change):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    view = {
        "F": np.asfortranarray(array),
        "negative": array[::-1, ::-1],
        "zero": np.broadcast_to(array[0], (4, 6)),
        "sliced": np.repeat(array, 3, axis=1)[:, ::3],
        "readonly": array.copy(),
        "misaligned": np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 6),
    }[change]
    view.flags.writeable = False
    found = _core.decode(_core.encode({"a": view}, {"a": view > 0}, META))
    assert same(found[0], {"a": np.ascontiguousarray(view)})


@pytest.mark.parametrize(
    ("tensors", "masks", "metadata", "error", "message"),
    [
        ({"a": np.zeros(3, np.float16)}, {}, META, TypeError, "float16"),
        ({"a": np.zeros(3, np.dtype("f4").newbyteorder())}, {}, META, TypeError, "f4"),
        ({"a": [1.0]}, {}, META, TypeError, "list"),
        ({3: np.zeros(3)}, {}, META, TypeError, "names"),
        ({"a": np.zeros(3)}, {"a": np.zeros(3)}, META, TypeError, "bool"),
        ({"a": np.zeros(3)}, {"a": np.zeros(2, bool)}, META, ValueError, "shape"),
        ({"a": np.zeros(3)}, {"b": np.zeros(3, bool)}, META, ValueError, "no tensor"),
        ({"a": np.ones(3)}, {"a": np.zeros(3, bool)}, META, ValueError, "masked out"),
        ({"a": np.full(3, np.nan)}, {"a": np.zeros(3, bool)}, META, ValueError, "masked out"),
        (
            {"a": np.zeros(3), "a.mask": np.zeros(1, np.uint8)},
            {"a": np.ones(3, bool)},
            META,
            ValueError,
            "taken",
        ),
        ({}, {}, {}, ValueError, "kind"),
        ({}, {}, {"kind": "a", "version": "1"}, ValueError, "version"),
    ],
)
def test_what_no_file_can_hold_is_refused(tensors, masks, metadata, error, message):
    with pytest.raises(error, match=message) as caught:
        _core.encode(tensors, masks, metadata)
    assert "\n" not in str(caught.value)


class Thing:
    """Something small to save."""

    def __init__(self, value: int, size: int = 3) -> None:
        self.array = np.full(size, value, np.int64)


@pytest.fixture
def thing():
    storage.register(
        "thing",
        Thing,
        lambda thing: storage.Contents({"array": thing.array}, {}, {"size": str(thing.array.size)}),
        lambda c: Thing(int(c.tensors["array"][0]), int(c.metadata["size"])),
    )
    yield Thing
    del storage._KINDS["thing"]


def test_save_and_load_go_by_kind(thing, tmp_path):
    sc.save(thing(7), tmp_path / "a.safetensors")
    assert sc.load(str(tmp_path / "a.safetensors")).array.tolist() == [7, 7, 7]
    with pytest.raises(TypeError, match=r"Thing.*got dict"):
        sc.save({}, tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_files_of_another_kind_and_failing_constructors_are_format_errors(thing, tmp_path):
    path = tmp_path / "a"
    for metadata, message in [
        ({"kind": "thong"}, "unknown kind 'thong'"),
        ({"kind": "thing"}, "damaged thing: "),
    ]:
        path.write_bytes(_core.encode({}, {}, metadata))
        with pytest.raises(sc.FormatError, match=message):
            sc.load(path)


def test_missing_and_foreign_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello, this is no model\n")
    # A safetensors file of another program.
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "foreign").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    newer = _core.encode({}, {}, META).replace(b'"version":"1"', b'"version":"9"')
    (tmp_path / "newer").write_bytes(newer)
    for name, message in {
        "missing": "no such file",
        "fifo": "not a regular file",
        ".": "not a regular file",
        "empty": "no secateur file",
        "text": "no secateur file",
        "foreign": "no secateur file",
        "newer": "version 9 of the format is newer",
    }.items():
        with pytest.raises(sc.FormatError, match=message) as caught:
            sc.load(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_truncation_is_a_format_error():
    data = _core.encode(*sample())
    for length in range(len(data)):
        with pytest.raises(sc.FormatError):
            _core.decode(data[:length])


def mutate(rng: np.random.Generator, data: bytes) -> bytes:
    """A few changed, removed or inserted bytes; half of the time in the header, where they hurt most."""
    bad = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        end = int.from_bytes(data[:8], "little") + 8 if rng.random() < 0.5 else len(bad)
        at = int(rng.integers(min(end, len(bad))))
        match rng.integers(5):
            case 0:
                bad[at] = rng.integers(256)
            case 1:
                bad[at] ^= 1 << rng.integers(8)
            case 2:
                del bad[at : at + int(rng.integers(1, 9))]
            case 3:
                bad[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 4:  # swap two digits or brackets for others: the JSON often stays valid
                bad[at : at + 1] = bytes([b'0123456789[]{},:"'[rng.integers(17)]])
    return bytes(bad)


def test_mutated_files_are_format_errors_and_allocate_nothing():
    data = _core.encode(*sample())
    rng = np.random.default_rng(0)
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10 * CASES):
        try:
            _core.decode(mutate(rng, data))
        except sc.FormatError as error:  # noqa: PERF203
            refused += 1
            assert len(str(error)) < 500
    # The rest are changes of values, of metadata, or none.
    assert refused > 5 * CASES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("size", [2**20, 2**40, 2**61, 2**64])
def test_a_header_that_claims_more_than_the_file_is_refused_before_allocation(size):
    tensor = f'{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}'
    for text in [
        f'{{"__metadata__":{{"format":"secateur","version":"1","kind":"x"}},"a":{tensor}}}',
        f'{{"__metadata__":{{"format":"secateur","version":"1","kind":"x","shape:a":"[{size}]"}},'
        '"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
        '"a.mask":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    ]:
        with pytest.raises(sc.FormatError):
            _core.decode(len(text).to_bytes(8, "little") + text.encode() + b"\0")
    for length in [size, size - 1]:
        with pytest.raises(sc.FormatError):
            _core.decode((length % 2**64).to_bytes(8, "little") + b"{}")


def test_permissions_and_links_are_kept_and_failures_leave_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a"
    umask = os.umask(0o027)
    try:
        storage.write_atomic(path, b"one")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    link = tmp_path / "link"
    link.symlink_to(path)
    storage.write_atomic(link, b"two")
    assert link.is_symlink()
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        storage.write_atomic(path, b"three")
    assert path.read_bytes() == b"two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "link"]
    with pytest.raises(FileNotFoundError):
        storage.write_atomic(tmp_path / "no" / "folder", b"")


WRITER = """
import sys
from secateur.storage import write_atomic
from secateur import _core
import numpy as np
path, i = sys.argv[1], 0
print("ready", flush=True)
while True:
    i += 1
    write_atomic(path, _core.encode({"a": np.full(100_000, i)}, {}, {"kind": "test"}))
"""


def test_after_a_kill_the_old_file_or_the_new_one_is_there(tmp_path):
    path = tmp_path / "a"
    storage.write_atomic(path, _core.encode({"a": np.zeros(100_000, np.int64)}, {}, {"kind": "test"}))
    rng = np.random.default_rng(0)
    versions = []
    for _ in range(max(50, CASES // 50)):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.03))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        array = _core.decode(path)[0]["a"]
        assert array.shape == (100_000,)
        assert (array == array[0]).all()
        versions.append(int(array[0]))
    assert max(versions) > 0
