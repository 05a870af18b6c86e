"""Threads and processes: settings, a released GIL, and a fork after use."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

import secateur as sc
from secateur import nn


@pytest.fixture
def threads():
    before = sc.get_num_threads()
    yield
    sc.set_num_threads(before)


@pytest.fixture
def work():
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((400, 400)) < 0.2, rng.standard_normal((400, 400)), 0).astype(np.float32)
    return sc.pack(weights, "csr"), rng.standard_normal((400, 200), dtype=np.float32)


@pytest.mark.parametrize("n", [0, -1, 5000])
def test_set_num_threads_refuses(n):
    with pytest.raises(ValueError, match=f"n: expected 1 to 1024 threads, got {n}"):
        sc.set_num_threads(n)


def test_set_num_threads(threads):
    for n in (1, 2, 3):
        sc.set_num_threads(n)
        assert sc.get_num_threads() == n


def test_targets():
    assert sc.cpu_target() == sc._core.cpu_targets()[-1]
    assert sc._core.cpu_targets()[0] == "scalar"


def test_calls_from_many_threads(threads, work):
    """Eight threads, a thousand calls each, on shared objects: all finish, all results equal."""
    sc.set_num_threads(2)
    packed, x = work
    model = nn.Sequential([nn.Dense(16, activation="relu"), nn.Dense(4)])
    model.build((20,), random_state=0)
    plan = sc.compile(model, batch=3, threads=2)
    small = np.random.default_rng(1).standard_normal((3, 20), dtype=np.float32)
    wanted, product = plan(small), packed @ x[:, :1]
    wrong: list[int] = []

    def call(seed):
        right = all(
            np.array_equal(plan(small), wanted) and np.array_equal(packed @ x[:, :1], product)
            for _ in range(1000)
        )
        wrong.extend([] if right else [seed])

    workers = [threading.Thread(target=call, args=(seed,), daemon=True) for seed in range(8)]
    deadline = time.monotonic() + 60
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    assert not any(worker.is_alive() for worker in workers) and not wrong


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_after_use(threads, work):
    """A child of a process whose pool has run makes a pool of its own, with the same result."""
    sc.set_num_threads(2)
    packed, x = work
    wanted = packed @ x
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(packed @ x, wanted) else 1)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child did not finish")
