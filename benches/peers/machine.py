"""The machine that a figure belongs to: threads pinned before libraries load, records by processor."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).resolve().parent.parent / "record"
_MARK = "SECATEUR_BENCH_THREADS"
_PEERS = (
    "secateur",
    "numpy",
    "scipy",
    "mkl",
    "sparse_dot_mkl",
    "onnx",
    "onnxruntime",
    "openvino",
    "torch",
    "scikit-learn",
)


def arguments(description: str | None, rounds: int = 40) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="threads for every candidate (default 1)")
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"samples of each candidate (default {rounds})"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-record", action="store_true", help="print only, leave benches/record alone")
    return parser


def pin_threads(threads: int) -> None:
    """Give every library `threads` threads and the process as many processors.

    OpenMP, OpenBLAS and MKL read their variables once, when they are loaded: the process starts itself anew
    with them set. Returns in the new process.
    """
    processors = sorted(os.sched_getaffinity(0))
    if os.environ.get(_MARK) != str(threads):
        if threads > len(processors):
            raise SystemExit(f"threads: this process may use {len(processors)} processors, got {threads}")
        variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        pinned = {**os.environ, **dict.fromkeys(variables, str(threads)), _MARK: str(threads)}
        # MKL's OpenMP workers would spin for 200 ms after each call, into the next candidate's sample.
        pinned |= {"KMP_BLOCKTIME": "1", "MKL_THREADING_LAYER": "SEQUENTIAL" if threads == 1 else "INTEL"}
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], pinned)
    os.sched_setaffinity(0, processors[-threads:])


def processor() -> dict[str, str]:
    """Model name, family, model and stepping, as Linux gives them."""
    wanted = {"model name": "name", "cpu family": "family", "model": "model", "stepping": "stepping"}
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in wanted:
                found.setdefault(wanted[key.strip()], value.strip())
    except OSError:
        pass
    return found or {"name": os.uname().machine}


def last_cache() -> int:
    """Bytes of the last-level cache, or 32 MiB where Linux does not tell."""
    found = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number, unit = re.fullmatch(r"(\d+)([KM]?)", path.read_text().strip()).groups()  # type: ignore[union-attr]
        found.append(int(number) << {"": 0, "K": 10, "M": 20}[unit])
    return max(found, default=32 << 20)


def slug() -> str:
    """A folder name for this processor."""
    cpu = processor()
    words = [cpu["name"], *(f"{key}{cpu[key]}" for key in ("family", "model") if key in cpu)]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def versions() -> dict[str, str]:
    """Version of every peer that is installed."""
    distributions = importlib.metadata.distributions()
    installed = {str(each.name).lower(): each.version for each in distributions}
    found = {name: installed[name] for name in _PEERS if name in installed}
    return {"python": sys.version.split()[0]} | found


def target() -> str | None:
    """The CPU target that secateur chose, or None where it is not installed."""
    try:
        import secateur
    except ImportError:
        return None
    return secateur.cpu_target()


def peak_gflops() -> float | None:
    """What one core reaches in registers, or None where secateur is not installed."""
    try:
        from secateur import _core
    except ImportError:
        return None
    return round(_core.peak_flops() / 1e9, 1)


def record(name: str, content: Mapping[str, Any], folder: Path = RECORDS) -> Path:
    """Write `content` as entry `name` of today's file for this processor, in place of an earlier run's."""
    path = folder / slug() / f"{time.strftime('%Y-%m-%d')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    day: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    day[name] = {
        "command": "python -m " + " ".join(_module_argv()),
        "time": time.strftime("%H:%M:%S"),
        "cpu": processor(),
        "processors": os.cpu_count(),
        "target": target(),
        "peak_gflops": peak_gflops(),
        "versions": versions(),
        **content,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(day, indent=1, sort_keys=True) + "\n")
    temporary.replace(path)
    return path


def _module_argv() -> list[str]:
    """The command as typed, without the interpreter and without folders of this machine."""
    given = sys.orig_argv[1:]
    given = given[given.index("-m") + 1 :] if "-m" in given else given
    return [Path(each).name if Path(each).is_absolute() else each for each in given]
