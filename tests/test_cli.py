"""The command line: results, exit codes, one-line errors, no partial output; the main job's run folder."""

import builtins
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import secateur as sc
from secateur import cli, demo
from secateur.nn import Conv2D, Dense, Flatten, MaxPool2D, Sequential


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a checkpoint, a plan, a small data set, and some files that are none of these."""
    path = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    x = rng.random((80, 12, 12), np.float32)
    np.savez(path / "data.npz", x=x, y=(x.mean(axis=(1, 2)) > 0.5).astype(int))
    model = Sequential([Conv2D(16, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(10)])
    model.fit(
        x[:, None],
        np.arange(80) % 10,
        progress=False,
        random_state=0,
        callbacks=[sc.nn.Checkpoint(path / "training")],
    )
    sc.save(model, path / "model.safetensors")
    sc.save(sc.compile(model, batch=1), path / "plan.safetensors")
    sc.save(Sequential([Dense(3)]), path / "unbuilt.safetensors")
    sc.save(Sequential([Dense(3)]).build((5,)), path / "other.safetensors")
    (path / "broken.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-7])
    (path / "text.safetensors").write_text("no model\n")
    write_checkpoint(path / "foreign.safetensors")
    return path


def write_checkpoint(path):
    """A safetensors file as others write them."""
    header = {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "a.bias": {"dtype": "F32", "shape": [2], "data_offsets": [32, 40]},
    }
    text = json.dumps(header).encode()
    data = np.arange(1, 11, dtype=np.float32).tobytes()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return np.frombuffer(data, np.float32), 8 + len(text)


def run(*arguments, capsys):
    """Exit code, standard output and standard error of a command, run in this process."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_help_of_every_command(capsys):
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    for command in ("demo", "ner", "inspect", "prune", "compile", "bench"):
        assert command in out
        code, text, err = run(command, "--help", capsys=capsys)
        assert (code, err) == (0, "")
        assert "--json" in text


def test_inspect(folder, capsys):
    code, out, err = run("inspect", folder / "model.safetensors", capsys=capsys)
    assert (code, err) == (0, "")
    assert "conv2d" in out
    code, out, _ = run("inspect", folder / "model.safetensors", "--json", capsys=capsys)
    about = json.loads(out)
    assert (about["kind"], about["parameters"], about["macs"]) == ("model", 4170, 18400)
    assert [layer["name"] for layer in about["layers"]] == ["conv2d", "max_pool2d", "flatten", "dense"]
    about = json.loads(run("inspect", folder / "plan.safetensors", "--json", capsys=capsys)[1])
    assert (about["kind"], about["batch"]) == ("plan", [1])
    assert "conv2d" in run("inspect", folder / "plan.safetensors", capsys=capsys)[1]
    about = json.loads(run("inspect", folder / "training" / "last.safetensors", "--json", capsys=capsys)[1])
    assert (about["kind"], about["epoch"]) == ("checkpoint", 1)


def test_prune_compile_bench(folder, tmp_path, capsys):
    pruned, plan = tmp_path / "pruned.safetensors", tmp_path / "plan.safetensors"
    code, out, err = run(
        *("prune", folder / "model.safetensors", "--out", pruned, "--sparsity", 0.9),
        *("--data", folder / "data.npz", "--epochs", 1, "--criterion", "taylor", "--json"),
        capsys=capsys,
    )
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert [row["accuracy"] is None for row in result["rows"]] == [False, False]
    weights = sc.load(pruned).parameters()
    assert sum(np.count_nonzero(w) for w in weights.values() if w.ndim > 1) == (144 + 4000) - round(
        0.9 * 4144
    )
    code, out, _ = run("compile", pruned, "--out", plan, "--batch", 4, "--threads", 1, capsys=capsys)
    assert code == 0
    assert "conv2d" in out
    x = np.random.default_rng(0).random((4, 1, 12, 12), np.float32)
    assert np.allclose(sc.load(plan)(x), sc.load(pruned).predict(x), atol=1e-4)
    code, out, _ = run("bench", folder / "model.safetensors", plan, "--rounds", 3, "--json", capsys=capsys)
    rows = json.loads(out)["rows"]
    assert code == 0
    assert [(row["batch"], row["speedup"] == 1.0) for row in rows] == [
        (1, True),
        (1, False),
        (32, True),
        (32, False),
    ]


@pytest.mark.parametrize("options", [["--criterion", "wanda"], ["--criterion", "obs"], ["--bias-correction"]])
def test_prune_on_calibration_data(folder, tmp_path, capsys, options):
    pruned = tmp_path / "pruned.safetensors"
    command = ["prune", folder / "model.safetensors", "--out", pruned, "--sparsity", 0.8, *options]
    code, out, err = run(*command, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and "data: needed" in err and not pruned.exists()
    code, _, err = run(*command, "--data", folder / "data.npz", capsys=capsys)
    assert (code, err) == (0, "")
    old, new = (sc.load(file).parameters() for file in (folder / "model.safetensors", pruned))
    changed = [not np.array_equal(old[name], new[name]) for name in old if name.endswith("bias")]
    assert any(changed) == (options != ["--criterion", "wanda"])


def test_prune_a_checkpoint(tmp_path, capsys):
    file, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    old, data = write_checkpoint(file)
    code, text, err = run("prune", file, "-o", out, "--sparsity", 0.5, "--json", capsys=capsys)
    assert (code, err) == (0, "")
    assert json.loads(text) == {
        "out": str(out),
        "files": 1,
        "bytes": file.stat().st_size,
        "tensors": 1,
        "weights": 8,
        "kept": 4,
        "sparsity": 0.5,
    }
    assert np.fromfile(out, np.float32, offset=data).tolist() == [0, 0, 0, 0, *old[4:]]
    code, text, _ = run("prune", file, "--out", out, "--granularity", "1:4", capsys=capsys)
    assert code == 0
    assert "0.7500" in text
    assert np.fromfile(out, np.float32, offset=data).tolist() == [0, 0, 0, 4, 0, 0, 0, 8, 9, 10]
    folder = tmp_path / "in"
    folder.mkdir()
    file.rename(folder / "part.safetensors")
    names = dict.fromkeys(("a.weight", "a.bias"), "part.safetensors")
    index = "model.safetensors.index.json"
    (folder / index).write_text(json.dumps({"weight_map": names}))
    for i, source in enumerate((folder, folder / index)):
        args = ("prune", source, "-o", tmp_path / f"out{i}", "--sparsity", 0.25, "--include", "a")
        assert run(*args, capsys=capsys)[0] == 0
        assert sorted(os.listdir(tmp_path / f"out{i}")) == [index, "part.safetensors"]
    code, text, err = run(*args, capsys=capsys)
    assert (code, text) == (2, "")
    assert "exists" in err


# Arguments with {} for the folder, exit code, part of the message.
BAD = [
    ("", 2, "Missing command"),
    ("grow", 2, "No such command"),
    ("inspect", 2, "Missing argument"),
    ("inspect {}/missing.safetensors", 1, "no such file"),
    ("inspect {}/text.safetensors", 1, "no secateur file"),
    ("inspect {}/broken.safetensors", 1, "damaged file"),
    ("inspect {}", 1, "not a regular file"),
    ("inspect {}/model.safetensors --colour", 2, "--colour"),
    ("prune {}/model.safetensors --sparsity 0.5", 2, "--out"),
    ("prune {}/model.safetensors --out {}/new.safetensors", 2, "sparsity"),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --threshold 1", 2, "threshold"),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity 1.5", 2, "sparsity"),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity half", 2, "sparsity"),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity nan", 2, "sparsity"),
    ("prune {}/model.safetensors --out {}/new.onnx --sparsity 0.5", 2, "out: unknown suffix"),
    ("prune {}/model.safetensors --out {}/no/new.safetensors --sparsity 0.5", 2, "out: there is no folder"),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --criterion l3", 2, "l1, l2"),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --criterion taylor", 2, "data"),
    (
        "prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --granularity row",
        2,
        "granularity",
    ),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --scope all", 2, "scope"),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --schedule slow", 2, "schedule"),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --exclude nothing", 2, "exclude"),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --epochs 1", 2, "data"),
    (
        "prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --data {}/no.npz",
        1,
        "no such file",
    ),
    ("prune {}/model.safetensors --out {}/new.safetensors --sparsity 0.5 --data mnist", 2, "data: unknown"),
    ("prune {}/other.safetensors --out {}/new.safetensors --sparsity 0.5 --data {}/data.npz", 2, "shape"),
    ("prune {}/plan.safetensors --out {}/new.safetensors --sparsity 0.5", 2, "expected a model"),
    ("prune {}/unbuilt.safetensors --out {}/new.safetensors --sparsity 0.5", 2, "not built"),
    ("prune {}/missing.safetensors -o {}/new.safetensors --sparsity 0.5", 1, "no such file"),
    ("prune {}/text.safetensors -o {}/new.safetensors --sparsity 0.5", 1, "text.safetensors: truncated"),
    ("prune {}/broken.safetensors -o {}/new.safetensors --sparsity 0.5", 1, "broken.safetensors: truncated"),
    ("prune {} -o {}/new --sparsity 0.5", 1, "no index"),
    ("prune {}/foreign.safetensors -o {}/new.safetensors", 2, "sparsity: missing"),
    ("prune {}/foreign.safetensors -o {}/new.bin --sparsity 0.5", 2, "out: unknown suffix"),
    *(
        (f"prune {{}}/foreign.safetensors -o {{}}/new.safetensors {options}", 2, message)
        for options, message in (
            ("--sparsity 0.5 --criterion taylor", "criterion: not for checkpoints"),
            ("--sparsity 0.5 --scope erk", "scope: not for checkpoints"),
            ("--sparsity 0.5 --schedule cubic", "schedule: not for checkpoints"),
            ("--sparsity 0.5 --data digits", "data: not for checkpoints"),
            ("--sparsity 0.5 --epochs 1", "epochs: not for checkpoints"),
            ("--threshold 0.5", "threshold: not for checkpoints"),
            ("--sparsity 0.5 --granularity neuron", "granularity: a checkpoint"),
            ("--sparsity 0.5 --granularity 2:4", "sparsity: 2:4"),
            ("--sparsity 0.5 --exclude a.bias", "exclude: 'a.bias' matches none"),
        )
    ),
    ("prune {}/model.safetensors -o {}/model.safetensors --sparsity 0.5", 2, "the model's own file"),
    ("prune {}/foreign.safetensors -o {}/../new/foreign.safetensors --sparsity 0.5", 2, "no folder"),
    ("prune {}/foreign.safetensors -o {}/foreign.safetensors --sparsity 0.5", 2, "the model's own file"),
    ("compile {}/model.safetensors -o {}/model.safetensors", 2, "the model's own file"),
    ("compile {}/model.safetensors -o {}/new.safetensors --batch 99999999999999999999", 2, "--batch"),
    ("compile {}/model.safetensors --out {}/new.safetensors --batch 0", 2, "--batch"),
    ("compile {}/model.safetensors --out {}/new.safetensors --target sse", 2, "target: unknown"),
    ("compile {}/model.safetensors --out {}/new.so", 2, "out: unknown suffix"),
    ("compile {}/text.safetensors --out {}/new.safetensors", 1, "no secateur file"),
    ("bench {}/model.safetensors {}/other.safetensors", 2, "other inputs"),
    ("bench {}/model.safetensors {}/model.safetensors", 2, "twice"),
    ("bench {}/model.safetensors --threads 0", 2, "--threads"),
    (
        "demo --preset huge --out {}/new",
        2,
        "preset: unknown name 'huge'; choose from reference, cnn-1m, rnn-500k",
    ),
    ("demo --epochs 0 --out {}/new", 2, "--epochs"),
    ("demo --data {}/missing.npz --out {}/new", 1, "no such file"),
    ("demo --data {}/model.safetensors --out {}/new", 2, "data: unknown data set"),
    ("demo --random-state -1 --out {}/new", 2, "--random-state"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD)
def test_bad_input_is_one_line_and_leaves_no_file(folder, capsys, arguments, code, message):
    before = sorted(folder.rglob("*"))
    # Split first: the folder's name may hold anything.
    found, out, err = run(*(a.replace("{}", str(folder)) for a in arguments.split()), capsys=capsys)
    assert (found, out) == (code, "")
    assert err.startswith("secateur: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_the_installed_command_exits_with_the_code(folder):
    command = [sys.executable, "-c", "from secateur.cli import main; main()", "inspect", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_demo_runs_and_leaves_a_run_folder(tmp_path, capsys):
    out = tmp_path / "run"
    code, text, err = run("demo", "--epochs", 2, "--out", out, "--json", capsys=capsys)
    assert code == 0
    assert "dense: 121,930 parameters" in err
    rows = {row["name"]: row for row in json.loads(text)["rows"]}
    assert list(rows) == ["dense", "90% weights", "50% neurons", "90% dynamic"]
    dense = rows["dense"]
    assert (dense["kept"], dense["macs"], dense["speedup_32"]) == (121_930, 2_528_000, 1.0)
    # 170 biases are not pruned.
    for name in ("90% weights", "90% dynamic"):
        assert rows[name]["kept"] == 121_930 - round(0.9 * 121_760)
        assert rows[name]["bytes"] < 0.2 * dense["bytes"]
    assert abs(rows["50% neurons"]["parameters"] / 121_930 - 0.5) < 0.01
    assert all(row["us_1"] > 0 and row["us_32"] > 0 for row in rows.values())
    written = json.loads((out / "table.json").read_text())
    assert written["rows"] == list(rows.values())
    assert written["data"] == "digits"
    assert (out / "figures.png").read_bytes().startswith(b"\x89PNG")
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in history} == {"dense", "weights", "neurons", "dynamic"}
    (_, _), (x_test, y_test) = sc.datasets.load("digits")
    for name, file in [("dense", "dense"), ("90% weights", "90-weights"), ("50% neurons", "50-neurons")]:
        model = sc.load(out / f"{file}.safetensors")
        assert model.evaluate(x_test, y_test)["accuracy"] == rows[name]["accuracy"]


def test_demo_takes_an_npz_file_and_works_without_matplotlib(tmp_path, folder, monkeypatch, capsys):
    real = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    out = tmp_path / "run"
    code, text, err = run("demo", "--data", folder / "data.npz", "--epochs", 1, "--out", out, capsys=capsys)
    assert code == 0
    assert "secateur[demo]" in err
    assert "50% neurons" in text
    assert not (out / "figures.png").exists()


def test_presets_have_the_promised_sizes():
    assert demo.network("reference").build((1, 28, 28)).num_parameters() == 121_930
    assert demo.network("cnn-1m").build((1, 28, 28)).num_parameters() == 999_274
    assert demo.network("rnn-500k").build((28, 28)).num_parameters() == 499_574


def test_images_too_small_for_the_network_are_refused_before_anything_is_written(tmp_path, capsys):
    np.savez(tmp_path / "small.npz", x=np.ones((20, 6, 6)), y=np.arange(20) % 2)
    code, _, err = run("demo", "--data", tmp_path / "small.npz", "--out", tmp_path / "run", capsys=capsys)
    assert code == 2
    assert "conv2d_1" in err
    assert not (tmp_path / "run").exists()


def test_ctrl_c_leaves_the_best_model_and_the_history(tmp_path):
    out = tmp_path / "run"
    code = "from secateur.cli import main; main()"
    command = [sys.executable, "-c", code, "demo", "--epochs", "500", "--out", str(out)]
    # A job in the background of a shell ignores Ctrl-C, and so would its children.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    history = out / "history.jsonl"
    deadline = time.monotonic() + 120
    while not (history.exists() and history.read_text().count("\n") >= 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "interrupted" in err
    assert sc.load(out / "dense" / "best.safetensors").built
    epochs = sc.load(out / "dense" / "last.safetensors").epoch
    assert epochs >= 1
    lines = [json.loads(line) for line in Path(history).read_text().splitlines()]
    assert len(lines) >= epochs
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]
    assert os.listdir(out) != []


def test_json_has_no_nan(folder, tmp_path, capsys):
    """A training that diverged is still to be read by other programs."""

    def refuse(token):
        raise AssertionError(token)

    x, y = np.random.default_rng(0).normal(size=(32, 4)), np.arange(32) % 2
    model = Sequential([Dense(8, activation="relu"), Dense(2)])
    files = sc.nn.Checkpoint(tmp_path, monitor="accuracy")
    with np.errstate(all="ignore"):
        model.fit(
            x, y, epochs=4, optimizer=sc.nn.SGD(1e38), callbacks=[files], random_state=0, progress=False
        )
    code, out, _ = run("inspect", tmp_path / "last.safetensors", "--json", capsys=capsys)
    about = json.loads(out, parse_constant=refuse)
    assert code == 0 and any(epoch["loss"] is None for epoch in about["history"])
    for line in (tmp_path / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
