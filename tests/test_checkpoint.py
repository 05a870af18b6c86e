"""Checkpoints of other makers: the masks of the whole in memory, bytes kept, crashes, damage."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc
from secateur import checkpoint_copy, checkpoint_cut, shards, storage
from test_storage import CASES, mutate

DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I32": "i4", "U8": "u1", "BOOL": "?"}
INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Every tensor takes several pieces."""
    monkeypatch.setattr(checkpoint_cut, "PIECE", 256)


def write_file(path, tensors, metadata=None, pad=0):
    """A safetensors file; bfloat16 as its bits. With `pad` spaces the data are misaligned."""
    header = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode() + b" " * pad
    data = b"".join(array.tobytes() for _, array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_shards(folder, files, pad=0):
    """A checkpoint in several files with its index."""
    folder.mkdir()
    for file, tensors in files.items():
        write_file(folder / file, tensors, {"format": "pt"}, pad)
    names = {name: file for file, tensors in files.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    (folder / "config.json").write_text("{}")


def split(tensors, count):
    """The tensors dealt out to so many files."""
    files = {f"model-{i + 1:05}-of-{count:05}.safetensors": {} for i in range(count)}
    for i, item in enumerate(tensors.items()):
        files[list(files)[i % count]].update([item])
    return files


def bfloat16(values):
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def values(dtype, array):
    """What a tensor's bits mean."""
    if dtype != "BF16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def sample(seed=0, ties=False, dtypes=("F32", "BF16", "F16", "F64")):
    """Matrices of all dtypes, and what is not pruned."""
    rng = np.random.default_rng(seed)

    def draw(dtype, shape):
        array = rng.integers(-2, 3, shape) if ties else rng.standard_normal(shape)
        return dtype, bfloat16(array) if dtype == "BF16" else array.astype(DTYPES[dtype])

    tensors = {f"layers.{i}.weight": draw(dtypes[i % len(dtypes)], (9, 30 + i)) for i in range(7)}
    tensors["ü.conv"] = draw(dtypes[0], (5, 3, 3, 3))
    tensors["layers.0.bias"] = draw("F32", (9,))
    tensors["norm"] = draw("BF16", (30,))
    tensors["step"] = ("I32", np.array(7, np.int32))
    tensors["ids"] = ("I32", rng.integers(0, 9, (3, 4)).astype(np.int32))
    tensors["flags"] = ("BOOL", np.array([[True, False]]))
    tensors["empty"] = ("F32", np.zeros((0, 4), np.float32))
    names = list(tensors)
    rng.shuffle(names)
    return {name: tensors[name] for name in names}


def expected(tensors, sparsity, names=None):
    """The pruned tensors' bytes, from masks of the whole in memory."""
    chosen = {
        name: values(dtype, array)
        for name, (dtype, array) in tensors.items()
        if dtype in shards.FLOATS and array.ndim >= 2 and array.size and (names is None or name in names)
    }
    # `prune_mask` makes scores in the dtype of the weights, all of which float64 holds.
    wide = {name: array.astype(np.float64) for name, array in chosen.items()}
    masks = sc.prune_mask(wide, sparsity=sparsity)
    return {
        name: sc.apply_mask(array, masks[name]).tobytes() if name in masks else array.tobytes()
        for name, (_, array) in tensors.items()
    }


def found(path):
    """The tensors' bytes in a file, or in all files of a folder."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {
        info.name: file.read_bytes()[info.begin : info.end]
        for file in files
        for info in shards.read_shard(file).tensors
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.5, 0.9, 1.0])
def test_one_file_and_several_give_the_masks_of_the_whole(tmp_path, ties, sparsity):
    tensors = sample(ties=ties)
    wanted = expected(tensors, sparsity)
    write_file(tmp_path / "one.safetensors", tensors, {"format": "pt", "a": "ä"}, pad=3)
    done = sc.prune_checkpoint(tmp_path / "one.safetensors", tmp_path / "new.safetensors", sparsity)
    assert found(tmp_path / "new.safetensors") == wanted
    assert (done.files, done.tensors, done.kept) == (1, 8, done.weights - round(sparsity * done.weights))
    for count in (2, 5):
        write_shards(tmp_path / f"in{count}", split(tensors, count))
        sc.prune_checkpoint(tmp_path / f"in{count}", tmp_path / f"out{count}", sparsity)
        assert found(tmp_path / f"out{count}") == wanted
    sc.prune_checkpoint(tmp_path / "in5" / INDEX, tmp_path / "index", sparsity)
    assert found(tmp_path / "index") == wanted
    assert not list(tmp_path.glob("*.partial"))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_cut_is_that_of_the_whole(data):
    dtypes = data.draw(st.lists(st.sampled_from(["F64", "F32", "F16", "BF16"]), min_size=1, max_size=4))
    numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, np.inf, -np.inf, 65504.0, 1e-45, 3e38, 1e-300])
    arrays = {}
    for i, dtype in enumerate(dtypes):
        drawn = np.array(data.draw(st.lists(numbers, min_size=1, max_size=70)))
        with np.errstate(over="ignore"):
            array = bfloat16(drawn) if dtype == "BF16" else drawn.astype(DTYPES[dtype])
        arrays["ba€dc"[i]] = (dtype, array)
    wide = {name: values(*pair).astype(np.float64) for name, pair in arrays.items()}
    k = data.draw(st.integers(0, sum(map(len, wide.values()))))
    cut = checkpoint_cut.find_cut({name: array for name, (_, array) in arrays.items()}, k)
    if k:
        assert cut.score == sc.kth_largest({name: np.abs(w) for name, w in wide.items()}, k)
    masks = sc.prune_mask(wide, k=k)
    for name, (_, array) in arrays.items():
        pruned = array.copy()
        for first in range(0, len(pruned), 9):
            checkpoint_cut.prune_weights(pruned[first : first + 9], name, first, cut)
        assert pruned.tobytes() == sc.apply_mask(array, masks[name]).tobytes()


def test_headers_indices_and_unpruned_files_keep_their_bytes(tmp_path):
    tensors = sample()
    files = split(tensors, 3)
    files["model-other.safetensors"] = {"buffer": ("U8", np.arange(99, dtype=np.uint8))}
    write_shards(tmp_path / "in", files)
    sc.prune_checkpoint(tmp_path / "in", tmp_path / "out", 0.5)
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*files, INDEX])
    for name in ("model-other.safetensors", INDEX):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()
    for name in files:
        data = shards.read_shard(tmp_path / "in" / name).data
        old, new = ((tmp_path / folder / name).read_bytes() for folder in ("in", "out"))
        assert (old[:data], len(old)) == (new[:data], len(new))


def test_a_file_may_replace_its_source_and_keeps_its_mode(tmp_path):
    tensors = sample()
    file, link = tmp_path / "model.safetensors", tmp_path / "link.safetensors"
    write_file(file, tensors)
    file.chmod(0o640)
    link.symlink_to(file)
    sc.prune_checkpoint(file, link, 0.5)
    assert found(file) == expected(tensors, 0.5)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640


def test_include_and_exclude(tmp_path):
    tensors = sample()
    write_file(tmp_path / "in.safetensors", tensors)
    done = sc.prune_checkpoint(
        *(tmp_path / "in.safetensors", tmp_path / "out.safetensors", 0.7),
        include="layers.*",
        exclude=["layers.1", "layers.[34].weight"],
    )
    names = {f"layers.{i}.weight" for i in (0, 2, 5, 6)}
    assert found(tmp_path / "out.safetensors") == expected(tensors, 0.7, names)
    assert done.tensors == 4


@pytest.mark.parametrize("pattern", ["2:4", "1:7", "3:3", "5:9999"])
def test_n_of_m(tmp_path, pattern):
    tensors = sample()
    tensors["long"] = ("F32", np.random.default_rng(1).standard_normal((2, 301)).astype(np.float32))
    n, m = map(int, pattern.split(":"))
    write_shards(tmp_path / "in", split(tensors, 2))
    done = sc.prune_checkpoint(tmp_path / "in", tmp_path / "out", granularity=pattern)
    result, kept = found(tmp_path / "out"), 0
    for name, (dtype, array) in tensors.items():
        wanted = array
        if dtype in shards.FLOATS and array.ndim >= 2 and array.size:
            mask = sc.nm_mask(np.abs(values(dtype, array)), n, m)
            wanted, kept = sc.apply_mask(array, mask), kept + int(mask.sum())
        assert result[name] == wanted.tobytes(), name
    assert done.kept == kept


def interrupted(tmp_path, monkeypatch, after):
    """A job of four files that fails when so many are written."""
    tensors = sample()
    write_shards(tmp_path / "in", split(tensors, 4))
    written = []

    def copy(shard, *arguments):
        if len(written) == after:
            raise OSError("no space left")
        written.append(shard.path.name)
        real(shard, *arguments)

    real = sc.checkpoint_draft._copy
    with monkeypatch.context() as patch:
        patch.setattr(sc.checkpoint_draft, "_copy", copy)
        with pytest.raises(OSError, match="no space"):
            sc.prune_checkpoint(tmp_path / "in", tmp_path / "out", 0.5)
    assert not (tmp_path / "out").exists()
    return tensors, written


def stamps(tmp_path):
    return {path.name: path.stat().st_ino for path in (tmp_path / "out.partial" / "files").iterdir()}


def test_an_interrupted_job_goes_on(tmp_path, monkeypatch):
    tensors, written = interrupted(tmp_path, monkeypatch, 2)
    finished = stamps(tmp_path)
    assert sorted(finished) == sorted(written)
    (tmp_path / "out.partial" / "files" / f".draft{storage.DRAFT_SUFFIX}").write_text("killed")
    with monkeypatch.context() as patch:
        patch.setattr(sc.checkpoint, "find_cut", None)  # ranked already
        sc.prune_checkpoint(tmp_path / "in", tmp_path / "out", 0.5)
    assert found(tmp_path / "out") == expected(tensors, 0.5)
    again = {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    assert again.items() >= finished.items()
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert sorted(again) == sorted([*split(tensors, 4), INDEX])


def test_another_job_and_changed_files_start_anew(tmp_path, monkeypatch):
    tensors, written = interrupted(tmp_path, monkeypatch, 3)
    sc.prune_checkpoint(tmp_path / "in", tmp_path / "out", 0.25)
    assert found(tmp_path / "out") == expected(tensors, 0.25)
    (tmp_path / "new").mkdir()
    tensors, written = interrupted(tmp_path / "new", monkeypatch, 3)
    file = tmp_path / "new" / "in" / written[0]
    os.utime(file, (1, 1))
    sc.prune_checkpoint(tmp_path / "new" / "in", tmp_path / "new" / "out", 0.5)
    assert found(tmp_path / "new" / "out") == expected(tensors, 0.5)


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path, monkeypatch):
    write_file(tmp_path / "in.safetensors", sample())
    real = sc.checkpoint_draft._copy

    def copy(shard, *arguments):
        real(shard, *arguments)
        os.utime(shard.path, (1, 1))

    monkeypatch.setattr(sc.checkpoint_draft, "_copy", copy)
    with pytest.raises(sc.FormatError, match=r"in\.safetensors.*changed"):
        sc.prune_checkpoint(tmp_path / "in.safetensors", tmp_path / "out.safetensors", 0.5)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_source_that_becomes_shorter_is_refused(tmp_path):
    (tmp_path / "in").write_bytes(bytes(range(100)))
    pieces = [checkpoint_copy.Piece(0, 60), checkpoint_copy.Piece(60, 101)]
    with open(tmp_path / "out", "wb") as file, pytest.raises(sc.FormatError, match="became shorter"):
        checkpoint_copy.copy_pieces(tmp_path / "in", file.fileno(), pieces)


def test_an_error_in_one_piece_ends_the_copy(tmp_path):
    (tmp_path / "in").write_bytes(bytes(10_000))
    done = []

    def fail(_):
        raise OSError("no space left")

    pieces = [checkpoint_copy.Piece(0, 1, fail), *(checkpoint_copy.Piece(i, i + 1) for i in range(1, 10_000))]
    with open(tmp_path / "out", "wb") as file, pytest.raises(OSError, match="no space"):
        checkpoint_copy.copy_pieces(tmp_path / "in", file.fileno(), pieces, done.append)
    assert len(done) < 9_999


@pytest.mark.parametrize(("columns", "m"), [(1, 1), (7, 3), (64, 7), (63, 7), (65, 40), (300, 100), (300, 7)])
def test_spans_hold_every_group_whole_and_once(columns, m):
    parts = list(checkpoint_cut.spans(20, columns, m, 64))
    assert [i for part in parts for i in part] == list(range(20 * columns))
    for part in parts:
        assert part.start % columns % m == 0
        assert len(part) <= max(m, 64)
        assert len(part) % columns == 0 or part.start // columns == (part.stop - 1) // columns


# Waits for a line, so that Python's start is not among what is killed.
CHILD = """
import sys
import secateur as sc
print("ready", flush=True)
sys.stdin.readline()
sc.prune_checkpoint(sys.argv[1], sys.argv[2], 0.5)
"""


@pytest.mark.parametrize("several", [False, True])
def test_killed_at_any_moment_there_is_no_output_or_the_whole(tmp_path, several):
    rng = np.random.default_rng(0)
    tensors = {f"w{i}": ("F32", rng.standard_normal((300, 400)).astype(np.float32)) for i in range(6)}
    source, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    if several:
        source, out = tmp_path / "in", tmp_path / "out"
        write_shards(source, split(tensors, 3))
    else:
        write_file(source, tensors)
    wanted = expected(tensors, 0.5)

    def start():
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(source), str(out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert child.stdout.readline() == b"ready\n"
        begin = time.monotonic()
        child.stdin.write(b"go\n")
        child.stdin.flush()
        return child, begin

    child, begin = start()
    assert child.wait(60) == 0
    child.communicate()
    whole = time.monotonic() - begin
    random.seed(0)
    for _ in range(10):
        for path in (out, tmp_path / f"{out.name}.partial"):
            subprocess.run(["rm", "-rf", path], check=True)
        child, _ = start()
        time.sleep(random.random() * whole)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if out.exists():
            assert found(out) == wanted
        else:
            sc.prune_checkpoint(source, out, 0.5)
            assert found(out) == wanted
            assert not (tmp_path / f"{out.name}.partial").exists()


def test_two_processes_do_not_write_one_output(tmp_path):
    write_file(tmp_path / "in.safetensors", sample())
    folder = tmp_path / "out.safetensors.partial"
    draft = sc.checkpoint_draft.Draft(
        tmp_path / "out.safetensors", shards.open_checkpoint(tmp_path / "in.safetensors")
    )
    with draft._lock(), pytest.raises(ValueError, match="out: another process"):
        sc.prune_checkpoint(tmp_path / "in.safetensors", tmp_path / "out.safetensors", 0.5)
    assert folder.exists()
    sc.prune_checkpoint(tmp_path / "in.safetensors", tmp_path / "out.safetensors", 0.5)
    assert not folder.exists()


W = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
LONG = "x" * (shards.LONGEST + 1)


def file_of(header, size=16):
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + bytes(size)


DAMAGED = [
    (b"", "truncated or no safetensors file: 0 bytes"),
    (b"\x01", "truncated or no safetensors file: 1 bytes"),
    ((99).to_bytes(8, "little") + b"{}", "a header of 99 bytes in 10 bytes"),
    ((2**63).to_bytes(8, "little") + b"{}", "a header of"),
    (file_of(LONG), "more than the 16777216 that are read"),
    (file_of("no json"), "damaged or no safetensors file"),
    (file_of("[]"), "no object"),
    (file_of("[" * 100_000), "damaged or no safetensors file"),
    ((4).to_bytes(8, "little") + b'{"\xff}', "damaged or no safetensors file"),
    (file_of('{"w":' + json.dumps(W) + ',"w":' + json.dumps(W) + "}"), "'w' occurs twice"),
    (file_of({"\ud800": W}), "surrogates"),
    (file_of({"__metadata__": {"a": 1}, "w": W}), "metadata"),
    (file_of({"w": 1}), "has no dtype"),
    (file_of({"w": {**W, "more": 1}}), "has no dtype"),
    (file_of({"w": {**W, "dtype": "F33"}}), "unknown dtype 'F33'"),
    (file_of({"w": {**W, "shape": [2, -2]}}), "has the shape"),
    (file_of({"w": {**W, "shape": [2, True]}}), "has the shape"),
    (file_of({"w": {**W, "shape": [1] * 33}}), "has the shape"),
    (file_of({"w": {**W, "shape": [2, 2.0]}}), "has the shape"),
    (file_of({"w": {**W, "shape": [2, 3]}}), "has 16 bytes for the shape"),
    (file_of({"w": {**W, "shape": [2**62, 2**62]}}), "for the shape"),
    (file_of({"w": {**W, "data_offsets": [0]}}), "data_offsets"),
    (file_of({"w": {**W, "data_offsets": [16, 0]}}), "for the shape"),
    (file_of({"w": W}, 15), "truncated file: its tensors take 16 bytes, but 15"),
    (file_of({"w": W}, 17), "damaged file: its tensors take 16 bytes, but 17"),
    (file_of({"v": W, "w": {**W, "data_offsets": [12, 28]}}, 28), "overlap 'w' at byte 12"),
    (file_of({"v": W, "w": {**W, "data_offsets": [20, 36]}}, 36), "gap before 'w' at byte 20"),
    (file_of({"w": {**W, "data_offsets": [4, 20]}}, 20), "gap before 'w' at byte 4"),
]


@pytest.mark.parametrize(("data", "message"), DAMAGED)
def test_damaged_files_are_refused_by_name(tmp_path, data, message):
    (tmp_path / "in.safetensors").write_bytes(data)
    with pytest.raises(sc.FormatError) as caught:
        sc.prune_checkpoint(tmp_path / "in.safetensors", tmp_path / "out.safetensors", 0.5)
    assert str(caught.value).startswith(f"{tmp_path}/in.safetensors: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["in.safetensors"]


def test_any_damage_is_refused_or_read_but_nothing_else(tmp_path):
    write_file(tmp_path / "whole", sample(), {"format": "pt"})
    data, rng, refused = (tmp_path / "whole").read_bytes(), np.random.default_rng(0), 0
    for _ in range(2 * CASES):
        (tmp_path / "in.safetensors").write_bytes(mutate(rng, data))
        try:
            shards.open_checkpoint(tmp_path / "in.safetensors")
        except sc.FormatError as error:
            refused += 1
            assert len(str(error)) < 500
    assert refused > CASES / 4


def rename_tensor(folder):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["other"] = "a.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def set_file(name):
    def change(folder):
        (folder / INDEX).write_text(json.dumps({"weight_map": {"v": name}}))

    return change


def swap(folder):
    index = {"weight_map": {"v": "b.safetensors", "w": "a.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))


BROKEN = [
    (lambda folder: (folder / "b.safetensors").unlink(), r"in/b\.safetensors: no such file"),
    (lambda folder: os.truncate(folder / "b.safetensors", 90), r"in/b\.safetensors: truncated"),
    (rename_tensor, "names 'other' in a.safetensors, which does not hold it"),
    (set_file("a.safetensors"), None),
    (swap, "names 'v' in b.safetensors, which does not hold it"),
    (
        lambda folder: write_file(
            folder / "b.safetensors", {"w": ("F32", np.ones((2, 2), "f4")), "x": ("U8", np.ones(1, "u1"))}
        ),
        r"b\.safetensors: holds 'x', but the index does not name it",
    ),
    (
        lambda folder: write_file(
            folder / "b.safetensors", {"w": ("F32", np.ones((2, 2), "f4")), "v": ("U8", np.ones(1, "u1"))}
        ),
        r"b\.safetensors: holds 'v', but the index says that it is in a\.safetensors",
    ),
    (set_file("../a.safetensors"), "no file name"),
    (set_file("/etc/a.safetensors"), "no file name"),
    (set_file("a.bin"), "no file name"),
    (set_file(3), "no file name"),
    (lambda folder: (folder / INDEX).write_text("{}"), "no weight_map"),
    (lambda folder: (folder / INDEX).write_text('{"weight_map": {}}'), "no weight_map"),
    (lambda folder: (folder / INDEX).write_text('{"weight_map": {"v": "a", "v": "b"}}'), "'v' occurs twice"),
    (lambda folder: (folder / INDEX).write_text(LONG), "longer than"),
    (lambda folder: (folder / INDEX).unlink(), "no index"),
    (lambda folder: (folder / f"other.{INDEX}").write_text("{}"), "2 indices"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_damaged_indices_are_refused_by_name(tmp_path, damage, message):
    ones = np.ones((2, 2), np.float32)
    write_shards(
        tmp_path / "in", {"a.safetensors": {"v": ("F32", ones)}, "b.safetensors": {"w": ("F32", ones)}}
    )
    damage(tmp_path / "in")
    if message is None:  # files that the index does not name are none of ours
        sc.prune_checkpoint(tmp_path / "in", tmp_path / "out", 0.5)
        assert sorted(os.listdir(tmp_path / "out")) == ["a.safetensors", INDEX]
        return
    with pytest.raises(sc.FormatError, match=message) as caught:
        sc.prune_checkpoint(tmp_path / "in", tmp_path / "out", 0.5)
    assert str(caught.value).startswith(f"{tmp_path}/in")
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("options", [{"sparsity": 0.0}, {"sparsity": 1.0}, {"granularity": "2:4"}])
def test_nan_is_refused_by_tensor_and_index(tmp_path, dtype, options):
    array = np.full((3, 50), np.inf)
    array[2, 17] = np.nan
    bits = bfloat16(array) if dtype == "BF16" else array.astype(DTYPES[dtype])
    write_file(tmp_path / "in.safetensors", {"a.b": (dtype, bits)})
    with pytest.raises(sc.FormatError, match=r"in\.safetensors: weights\['a\.b'\]\[2, 17\] is NaN"):
        sc.prune_checkpoint(tmp_path / "in.safetensors", tmp_path / "out.safetensors", **options)
    assert os.listdir(tmp_path) == ["in.safetensors"]


REFUSED = [
    ({}, "sparsity: missing"),
    ({"sparsity": 1.5}, "sparsity: expected a number in"),
    ({"sparsity": float("nan")}, "sparsity"),
    ({"sparsity": 0.5, "granularity": "2:4"}, "sparsity: 2:4"),
    ({"sparsity": 0.5, "granularity": "8x1"}, "granularity: a checkpoint"),
    ({"sparsity": 0.5, "granularity": "neuron"}, "granularity: a checkpoint"),
    ({"sparsity": 0.5, "granularity": "row"}, "granularity: unknown"),
    ({"sparsity": 0.5, "include": "nothing"}, "include: 'nothing' matches none"),
    ({"sparsity": 0.5, "exclude": "*"}, "exclude: no weights"),
    ({"sparsity": 0.5, "include": "norm"}, "include: 'norm' matches none"),
    ({"sparsity": 0.5, "out": "no/out.safetensors"}, "out: there is no folder"),
    ({"sparsity": 0.5, "out": "folder"}, "out: .* is a folder"),
    ({"sparsity": 0.5, "out": "taken"}, "out: .*taken.partial' is in the way"),
    ({"sparsity": 0.5, "source": "model.safetensors"}, "source: .* is a file of secateur.save"),
    ({"sparsity": 0.5, "source": "flat.safetensors"}, "source: no tensor"),
    ({"sparsity": 0.5, "source": "several", "out": "folder"}, "out: .* exists"),
    ({"sparsity": 0.5, "source": "no.safetensors"}, "no.safetensors: no such file"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_arguments_are_refused_before_any_work(tmp_path, options, message):
    write_file(tmp_path / "in.safetensors", sample())
    write_file(tmp_path / "flat.safetensors", {"w": ("F32", np.ones(3, np.float32))})
    write_shards(tmp_path / "several", split(sample(), 2))
    sc.save(sc.nn.Sequential([sc.nn.Dense(3)]).build((5,)), tmp_path / "model.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.partial").mkdir()
    (tmp_path / "taken.partial" / "precious").write_text("")
    before = sorted(tmp_path.rglob("*"))
    arguments = {"source": "in.safetensors", "out": "out.safetensors", **options}
    source, out = (tmp_path / arguments.pop(key) for key in ("source", "out"))
    with pytest.raises(ValueError, match=message):
        sc.prune_checkpoint(source, out, **arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_sub_byte_and_unaligned_tensors_are_copied(tmp_path):
    header = {
        "a": {"dtype": "F4", "shape": [3, 2], "data_offsets": [0, 3]},
        "w": {"dtype": "F32", "shape": [1, 2], "data_offsets": [3, 11]},
    }
    data = b"\x12\x34\x56" + np.array([1, -2], np.float32).tobytes()
    (tmp_path / "in.safetensors").write_bytes(file_of(header, 0) + data)
    sc.prune_checkpoint(tmp_path / "in.safetensors", tmp_path / "out.safetensors", 0.5)
    assert Path(tmp_path / "out.safetensors").read_bytes()[-11:] == b"\x12\x34\x56" + bytes(4) + data[7:]
