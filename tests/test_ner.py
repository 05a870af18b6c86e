"""The named-entity job on small files."""

from __future__ import annotations

import functools
import json
import operator

import numpy as np
import pytest

import secateur as sc
import test_cli
from secateur import conll, ner
from secateur.vocabulary import Vocabulary


def corpus(path, n, seed=0):
    """Names are capitalised words behind "Dr", places ones behind "in"; sentences of 4 to 11 tokens."""
    rng = np.random.default_rng(seed)
    names, words = ["Ada", "Alan", "Grace", "Emmy"], ["saw", "the", "old", "map", "of", "it"]
    lines = []
    for _ in range(n):
        for _ in range(rng.integers(2, 5)):
            kind = rng.integers(3)
            if kind == 2:
                lines.append(f"{rng.choice(words)}\tX\tO")
                continue
            name, tag = rng.choice(names), ("person", "place")[kind]
            lines += [f"{('Dr', 'in')[kind]}\tX\tO", f"{name}\tX\tB-{tag}"]
            if rng.random() < 0.5:
                lines.append(f"{rng.choice(names)}\tX\tI-{tag}")
        lines.append("")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def files(tmp_path):
    sizes = {"train": 240, "valid": 60, "test": 60}
    return {name: corpus(tmp_path / f"{name}.conll", n, seed) for seed, (name, n) in enumerate(sizes.items())}


def test_a_tagger_of_a_users_files(files, tmp_path, capsys):
    options = [f"--{name}={path}" for name, path in files.items()]
    out = tmp_path / "run"
    small = ["--epochs", 30, "--units", 16, "--length", 12, "--sparsity", 0.7]
    code, text, _ = test_cli.run("ner", *options, *small, "--out", out, "--json", capsys=capsys)
    assert code == 0
    found = json.loads(text)
    assert [row["name"] for row in found["rows"]] == ["dense", "70% static", "70% dynamic"]
    for row in found["rows"]:
        assert row["entity_f1"] > 0.9 and row["token_f1"] > 0.9
    dense, *others = found["rows"]
    for row in others:
        model = sc.load(out / f"{row['name'].replace('% ', '-')}.safetensors")
        masks, params = model.masks, model.parameters()
        sizes = {name: params[name].size for name in model.prunable()}
        kept = sum(int(masks[name].sum()) for name in sizes)
        assert abs(kept / sum(sizes.values()) - 0.3) < 0.01 and row["kept"] < dense["kept"]
    # What is written can be used: vocabularies, model, tags.
    written = json.loads((out / "encoder.json").read_text())
    encoder = ner.Encoder(
        Vocabulary.from_json(written["words"]),
        Vocabulary.from_json(written["letters"]),
        *(written[key] for key in ("tags", "length", "word_length")),
    )
    sentences = conll.read(files["test"])
    logits = sc.load(out / "dense.safetensors").predict(encoder.x(sentences))
    tags = encoder.decode(logits.argmax(axis=-1), sentences)
    true = [tag for sentence in sentences for tag in sentence.tags]
    right = np.mean([a == b for a, b in zip(true, functools.reduce(operator.iadd, tags, []), strict=True)])
    assert right > 0.95
    assert len((out / "history.jsonl").read_text().splitlines()) == 30 + 30 + 30


def test_unknown_tags_long_sentences_and_no_validation(files, tmp_path):
    with files["test"].open("a") as file:
        file.write("Acme\tX\tB-company\n\n" + "word\tX\tO\n" * 30 + "Ada\tX\tB-person\n")
    said = []
    job = ner.Ner(
        files["train"], None, files["test"], epochs=1, units=4, length=8, crf=True, out=tmp_path / "run",
        say=said.append,
    )  # fmt: skip
    assert len(job.valid) == 24 and len(job.train) == 216
    job.run()
    assert "test: 1 tokens with the tag B-company, which the training set does not have" in said
    assert any(line.startswith("test: ") and line.endswith("sentences are cut to 8 tokens") for line in said)
    report = job.reports["dense"]
    assert report["tokens"]["B-company"]["support"] == 1 and report["tokens"]["B-company"]["recall"] == 0
    total = sum(tag != "O" for sentence in job.test for tag in sentence.tags)
    assert report["tokens"]["micro avg"]["support"] == total
    assert report["entities"]["company"]["support"] == 1


def test_a_crf_learns_too(files, tmp_path):
    job = ner.Ner(*files.values(), epochs=30, units=16, length=12, crf=True, out=tmp_path / "run")
    with (tmp_path / "history").open("w") as history:
        model = job._trained("dynamic", history)
    assert job.scores(model, job.test)["entities"]["micro avg"]["f1-score"] > 0.9


def test_the_same_number_gives_the_same_weights(files, tmp_path):
    models = []
    for i in range(2):
        job = ner.Ner(*files.values(), epochs=1, units=4, length=8, out=tmp_path / str(i), random_state=3)
        job.run()
        models.append(sc.load(tmp_path / str(i) / "80-dynamic.safetensors").parameters())
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--train", "{bad}"], "{bad}:2: "),
    (["--train", "{train}", "--test", "{missing}"], "{missing}: "),
    (["--test", "{train}"], "train: needed beside a file"),
    (["--train", "{train}", "--tag-column", "7"], "{train}:1: "),
    (["--train", "{few}"], "valid: needed where there are fewer than 10 sentences"),
    (["--train", "{train}", "--sparsity", "1.5"], "sparsity: expected a number between 0 and 1"),
])  # fmt: skip
def test_bad_input_is_named_before_anything_is_written(arguments, message, files, tmp_path, capsys):
    (tmp_path / "bad").write_text("fine\tX\tO\nonly-one-column\n")
    (tmp_path / "few").write_text("a\tO\n\nb\tB-x\n")
    names = {"bad": tmp_path / "bad", "few": tmp_path / "few", "missing": tmp_path / "no", **files}
    out = tmp_path / "run"
    given = [argument.format(**names) for argument in arguments]
    code, text, error = test_cli.run("ner", *given, "--out", out, capsys=capsys)
    assert code in (1, 2) and not text
    assert message.format(**names) in error and error.strip().count("\n") == 0
    assert not out.exists()


def test_the_report_is_shown(files, tmp_path, capsys):
    options = [f"--{name}={path}" for name, path in files.items()]
    small = ["--epochs", 1, "--units", 4, "--length", 8, "--out", tmp_path / "run"]
    code, text, error = test_cli.run("ner", *options, *small, capsys=capsys)
    assert code == 0 and "sentences are cut to 8 tokens" in error
    for word in ("weighted avg", "B-person", "entity F1", "dense, by tag", "80% dynamic, by entity"):
        assert word in text
