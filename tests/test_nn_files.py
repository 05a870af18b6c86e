"""What a training run leaves on disk and on the terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

import secateur as sc
from secateur import nn


def data(n=120):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    return (rng.normal(size=(3, 8))[y] + rng.normal(size=(n, 8))).astype(np.float32), y


def mlp():
    return nn.Sequential([nn.Dense(16, activation="relu"), nn.Dense(3)])


def lines(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_checkpoint_files(tmp_path):
    x, y = data()
    model, folder = mlp(), tmp_path / "run"
    checkpoint = nn.Checkpoint(folder)
    history = model.fit(
        x[:90], y[:90], epochs=6, validation_data=(x[90:], y[90:]), callbacks=[checkpoint], random_state=0
    )
    assert lines(folder) == history.epochs
    best = int(np.argmin(history["val_loss"]))
    assert checkpoint.best_epoch == best
    assert sc.load(folder / "best.safetensors").evaluate(x[90:], y[90:])["loss"] == history["val_loss"][best]
    assert np.array_equal(sc.load(folder / "last.safetensors").model.predict(x), model.predict(x))
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors",
        "history.jsonl",
        "last.safetensors",
    ]


def test_a_run_resumed_from_its_files_equals_an_uninterrupted_one(tmp_path):
    x, y = data()

    def callbacks(folder):
        return [nn.Checkpoint(folder), nn.EarlyStopping("accuracy", patience=10)]

    fit = {"optimizer": nn.Adam(0.01), "random_state": 5}
    model = mlp()
    wanted = model.fit(x, y, epochs=6, callbacks=callbacks(tmp_path / "whole"), **fit)

    class Interrupt(nn.Callback):
        def on_batch_end(self, state):
            if state.batch == 10:
                raise KeyboardInterrupt

    fit["optimizer"] = nn.Adam(0.01)
    with pytest.raises(KeyboardInterrupt):
        mlp().fit(x, y, epochs=6, callbacks=[*callbacks(tmp_path / "cut"), Interrupt()], **fit)
    assert lines(tmp_path / "cut") == wanted.epochs[:2]
    checkpoint = sc.load(tmp_path / "cut" / "last.safetensors")
    history = checkpoint.model.fit(x, y, epochs=6, callbacks=callbacks(tmp_path / "cut"), resume=checkpoint)
    assert history.epochs == wanted.epochs
    assert lines(tmp_path / "cut") == wanted.epochs
    for ours, theirs in zip(checkpoint.model.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)
    best = [sc.load(tmp_path / run / "best.safetensors").get_weights() for run in ("whole", "cut")]
    assert all(np.array_equal(a, b) for a, b in zip(*best, strict=True))


def test_ctrl_c_in_the_first_epoch_leaves_a_model(tmp_path):
    class Interrupt(nn.Callback):
        def on_batch_end(self, state):
            raise KeyboardInterrupt

    x, y = data()
    model = mlp()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, callbacks=[nn.Checkpoint(tmp_path), Interrupt()], random_state=0)
    assert lines(tmp_path) == []
    assert np.array_equal(sc.load(tmp_path / "best.safetensors").predict(x), model.predict(x))


SCRIPT = """
import sys, numpy as np
from secateur import nn
rng = np.random.default_rng(0)
x, y = rng.normal(size=(4000, 1, 16, 16)).astype(np.float32), rng.integers(0, 3, 4000)
model = nn.Sequential([nn.Conv2D(16, 3, activation="relu"), nn.Flatten(), nn.Dense(3)])
epochs, callbacks = int(sys.argv[1]), [nn.Checkpoint(path) for path in sys.argv[2:]]
try:
    model.fit(x[:640], y[:640], epochs=epochs, callbacks=callbacks, random_state=0)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals and terminals are POSIX here")
def test_a_real_ctrl_c(tmp_path):
    # A job in the background of a shell ignores Ctrl-C, and so would its children.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-c", SCRIPT, "100000", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=listen)
    deadline = time.monotonic() + 60
    while not (tmp_path / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"")
    history = lines(tmp_path)
    assert [logs["epoch"] for logs in history] == list(range(len(history)))
    assert sc.load(tmp_path / "best.safetensors").built
    assert sc.load(tmp_path / "last.safetensors").epoch in (len(history), len(history) - 1)


@pytest.mark.skipif(os.name != "posix", reason="signals and terminals are POSIX here")
def test_the_progress_bar_is_for_terminals_only():
    command = [sys.executable, "-c", SCRIPT, "2"]
    quiet = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert (quiet.stdout, quiet.stderr) == (b"", b"")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux: the other side has closed
            break
        if not chunk:
            break
        shown += chunk
    assert process.wait(timeout=60) == 0
    os.close(ours)
    for text in (b"Epoch 1/2", b"Epoch 2/2", b"20/20", b"loss", b"accuracy"):
        assert text in shown
