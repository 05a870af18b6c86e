"""DeepSparse 1.8.0, the last version, as a candidate from an environment of its own: it needs NumPy 1.

``make bench-deepsparse`` prepares it; without it the scripts leave DeepSparse out. Its process shares the
processors of the script that asks, sleeps while other candidates run, and times its own calls.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / ".venv-deepsparse" / "bin" / "python"


class Remote:
    """One process of DeepSparse with any number of compiled networks."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.folder = tempfile.TemporaryDirectory()
        side = Path(__file__).with_name("deepsparse_side.py")
        self.process = subprocess.Popen(
            [str(PYTHON), "-I", str(side)],  # isolated: our scripts do not hide its modules
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> Any:
        """The answer to a request."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("deepsparse: its process ended")
        return json.loads(line)

    def candidate(self, model: bytes, x: NDArray[np.float32], wanted: NDArray[np.float32]) -> Candidate:
        """A network to time on `x`, checked against `wanted`."""
        folder = Path(self.folder.name)
        (folder / "m.onnx").write_bytes(model)
        np.save(folder / "x.npy", x)
        paths = {
            "model": str(folder / "m.onnx"),
            "inputs": str(folder / "x.npy"),
            "outputs": str(folder / "y.npy"),
        }
        number = self.ask({**paths, "threads": self.threads})
        if not np.allclose(np.load(folder / "y.npy"), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max()):
            raise SystemExit("deepsparse: wrong result")
        return Candidate(self, number)


class Candidate:
    """A compiled network: `harness.compare` asks it for the time of its calls."""

    def __init__(self, remote: Remote, number: int) -> None:
        self.remote, self.number = remote, number

    def seconds(self, times: int) -> float:
        """How long `times` calls took, by the clock of the process that makes them."""
        return float(self.remote.ask({"run": self.number, "times": times}))

    def __call__(self) -> None:
        self.seconds(1)


def deepsparse(threads: int) -> Remote | None:
    """A process of DeepSparse, where its environment is there."""
    return Remote(threads) if PYTHON.exists() else None
