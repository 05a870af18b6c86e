"""Pruning a sharded checkpoint out of core, beside copying the same files: time and anonymous memory.

Both write to the disk and wait for it (fsync). Every call is a process of its own, in interleaved rounds; the
files are in the page cache as far as the memory reaches. The memory is the peak of the kernel's RssAnon,
sampled every millisecond: what is mapped from files is not in it.

    python -m benches.peers.checkpoint --gigabytes 2 --dtype BF16
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .machine import arguments, pin_threads, record

SHARDS = 4
COLUMNS = 4096
BITS = {"F32": 32, "F16": 16, "BF16": 16}

COPY = """
import os, shutil, sys
os.mkdir(sys.argv[2])
for entry in os.scandir(sys.argv[1]):
    copy = shutil.copy(entry.path, sys.argv[2])
    with open(copy, "rb+") as file:
        os.fsync(file.fileno())
"""
PRUNE = """
import sys
import secateur as sc
sc.set_num_threads(int(sys.argv[4]))
options = {"granularity": sys.argv[3]} if ":" in sys.argv[3] else {"sparsity": float(sys.argv[3])}
sc.prune_checkpoint(sys.argv[1], sys.argv[2], **options)
"""


def make(folder: Path, gigabytes: float, dtype: str, seed: int) -> int:
    """Write a checkpoint of normal weights, four matrices a file; returns the bytes of the largest tensor."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = max(1, int(gigabytes * 1e9 / SHARDS / 4 / COLUMNS / (BITS[dtype] // 8)))
    names: dict[str, str] = {}
    size = rows * COLUMNS * BITS[dtype] // 8
    for shard in range(SHARDS):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for layer in range(4 * shard, 4 * shard + 4):
            for name, shape in (("weight", [rows, COLUMNS]), ("bias", [COLUMNS])):
                length = int(np.prod(shape)) * BITS[dtype] // 8
                place = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + length]}
                header[f"layers.{layer}.{name}"] = place
                at += length
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        names |= {name: file for name in header if name != "__metadata__"}
        with open(folder / file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            left = at // (BITS[dtype] // 8)
            while left:
                piece = rng.standard_normal(min(left, 1 << 22), np.float32)
                bits = (piece.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else piece
                out.write(bits.astype(np.float16) if dtype == "F16" else bits)
                left -= len(piece)
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return size


def run(code: str, *parameters: str) -> tuple[float, int]:
    """Seconds of a Python process, and the most anonymous memory that it was seen to hold, in bytes."""
    begin = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", code, *parameters])
    peak = 0
    while child.poll() is None:
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
        except OSError:
            continue
        if found := re.search(r"RssAnon:\s+(\d+) kB", status):
            peak = max(peak, int(found[1]) << 10)
        time.sleep(0.001)
    if child.returncode:
        raise SystemExit(f"a candidate failed with {child.returncode}")
    return time.perf_counter() - begin, peak


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--dtype", choices=BITS, default="BF16")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--folder", type=Path, help="where the files go for the time being (default: /tmp)")
    options = parser.parse_args()
    pin_threads(options.threads)

    candidates = {
        "copy": (COPY,),
        f"secateur {options.sparsity:g}": (PRUNE, str(options.sparsity), str(options.threads)),
        "secateur 2:4": (PRUNE, "2:4", str(options.threads)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    peaks = dict.fromkeys(candidates, 0)
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        source, out = Path(place, "in"), Path(place, "out")
        source.mkdir()
        largest = make(source, options.gigabytes, options.dtype, options.seed)
        size = sum(entry.stat().st_size for entry in source.iterdir())
        os.sync()
        names = list(candidates)
        for i in range(options.rounds):
            shift = i % len(names)
            for name in names[shift:] + names[:shift]:
                code, *parameters = candidates[name]
                taken, peak = run(code, str(source), str(out), *parameters)
                seconds[name].append(taken)
                peaks[name] = max(peaks[name], peak)
                shutil.rmtree(out)
    title = f"{size / 1e9:.2f} GB of {options.dtype} in {SHARDS} files, {options.threads} threads"
    print(f"{title}; largest tensor {largest / 1e6:.0f} MB")
    rows = []
    for name, samples in seconds.items():
        ratio = min(samples) / min(seconds["copy"])
        row = {"name": name, "seconds": round(min(samples), 3), "times_copy": round(ratio, 3)}
        rows.append({**row, "anonymous_bytes": peaks[name], "samples": [round(each, 3) for each in samples]})
        memory = f"{peaks[name] / 1e6:6.0f} MB anonymous"
        print(f"  {name:14} {min(samples):7.2f} s  {ratio:5.2f}x the copy's time  {memory}")
    if not options.no_record:
        content = {"seed": options.seed, "bytes": size, "largest_tensor": largest, "rows": rows}
        print(f"recorded in {record(f'checkpoint, {title}', content)}")


if __name__ == "__main__":
    main()
