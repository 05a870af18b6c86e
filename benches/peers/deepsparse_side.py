"""The other side of `remote.Remote`: runs in DeepSparse's own environment, and imports nothing of ours.

Reads one JSON line a request from standard input and answers with one on standard output:
``{"model": path, "inputs": path, "threads": n}`` compiles a network, ``{"run": i, "times": n}`` times it.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
from deepsparse import Engine


def main() -> None:
    """Serve until standard input closes."""
    # The engine prints a banner to standard output: answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engines = []
    for line in sys.stdin:
        request = json.loads(line)
        if "model" in request:
            x = np.load(request["inputs"])
            engine = Engine(request["model"], batch_size=len(x), num_cores=request["threads"])
            np.save(request["outputs"], engine.run([x])[0])
            engines.append((engine, [x]))
            answer = len(engines) - 1
        else:
            engine, inputs = engines[request["run"]]
            begin = time.perf_counter()
            for _ in range(request["times"]):
                engine.run(inputs)
            answer = time.perf_counter() - begin
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
