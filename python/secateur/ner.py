"""The named-entity job: train a BiLSTM tagger, prune it two ways, compile it, report by tag and entity.

::

    CoNLL files ──> Encoder (words, letters, tags as numbers) ──> dense, static, dynamic ──> test set, plans
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from . import conll, datasets, nn
from ._json import dumps
from .methods import DynamicPruner, Gradual
from .pruning import prune
from .reporting import model_rows
from .reporting.phases import PhaseLog
from .reporting.tagging import entity_scores, token_report
from .schedules import Schedule
from .storage import save, write_atomic
from .vocabulary import Vocabulary, encode_tags

Sentences = Sequence[conll.Sentence]

BATCH, RATE = 32, 4e-3
STEPS = 3
"""Steps of static pruning."""
HELD_OUT = 10
"""Without a validation file, every tenth sentence of the training file is one of validation."""


@dataclass(frozen=True)
class Encoder:
    """Sentences as the arrays that a tagger takes and gives.

    Attributes
    ----------
    words, letters : Vocabulary
        Of the training set; a word that it has once only is as unknown as one of later texts.
    tags : tuple of str
        Those of the training set.
    length, word_length : int
        Tokens of a sentence and letters of a word; what is longer is cut.
    """

    words: Vocabulary
    letters: Vocabulary
    tags: tuple[str, ...]
    length: int
    word_length: int

    @classmethod
    def of(cls, train: Sentences, length: int, word_length: int) -> Encoder:
        """The vocabularies of a training set."""
        tokens = [token for sentence in train for token in sentence.tokens]
        words = Vocabulary(tokens, min_count=2, lower=True)
        letters = Vocabulary("".join(tokens), min_count=2)
        return cls(words, letters, tuple(conll.tag_set(train)), length, word_length)

    def x(self, sentences: Sentences) -> NDArray[np.float32]:
        """Ids of shape (n, length, 1 + word_length): a word's, then its letters'; 0 is padding."""
        tokens = [sentence.tokens for sentence in sentences]
        words = self.words.encode(tokens, self.length)[..., None]
        letters = self.letters.encode_characters(tokens, self.length, self.word_length)
        return np.concatenate([words, letters], axis=2).astype(np.float32)

    def y(self, sentences: Sentences) -> tuple[NDArray[np.int64], dict[str, int]]:
        """Tags of shape (n, length), -1 where there is none to learn; and those the training set lacks."""
        return encode_tags([sentence.tags for sentence in sentences], self.tags, self.length)

    def decode(self, numbers: NDArray[np.integer[Any]], sentences: Sentences) -> list[list[str]]:
        """The tags that were found; tokens that were cut off are taken to be in no entity."""
        found = []
        for row, sentence in zip(numbers, sentences, strict=True):
            tags = [self.tags[i] for i in row[: len(sentence.tokens)]]
            found.append(tags + ["O"] * (len(sentence.tokens) - len(tags)))
        return found

    def to_json(self) -> dict[str, Any]:
        """What `secateur ner` writes beside its models, so that they can be used."""
        return {
            "words": self.words.to_json(),
            "letters": self.letters.to_json(),
            "tags": list(self.tags),
            "length": self.length,
            "word_length": self.word_length,
        }


def network(encoder: Encoder, units: int, crf: bool = False) -> nn.Sequential:
    """The tagger, not built yet; its outputs are logits of shape (n, length, tags).

    Vectors of words, and what a convolution finds in their letters (Ma & Hovy, 1603.01354), go through an
    LSTM in both directions. Tags are chosen one by one, or with a CRF, the paper's last layer, together.
    """
    words = [nn.Slice(0), nn.Embedding(len(encoder.words), 64, mask_zero=True)]
    of_a_word = [
        nn.Embedding(len(encoder.letters), 24),
        nn.Conv1D(48, 3, padding="same", activation="relu"),
        nn.GlobalMaxPool1D(),
    ]
    letters = [nn.Slice(1, 1 + encoder.word_length), nn.TimeDistributed(of_a_word)]
    return nn.Sequential(
        [
            nn.Concatenate(words, letters),
            nn.Dropout(0.5),
            nn.Bidirectional(nn.LSTM(units, return_sequences=True)),
            nn.Dropout(0.5),
            nn.TimeDistributed(nn.Dense(len(encoder.tags))),
            *([nn.CRF()] if crf else []),
        ]
    )


class _Best(nn.Callback):
    """Logs the entity F1 of the validation set, and keeps the best epoch at the target."""

    rank = 1

    def __init__(self, run: Ner) -> None:
        self.run = run
        self._best = -1.0
        self._snapshot: Any = None

    def on_epoch_end(self, state: nn.FitState) -> None:
        found = self.run.scores(state.model, self.run.valid)["entities"]
        f1 = state.logs["val_f1"] = state.history[-1]["val_f1"] = found["micro avg"]["f1-score"]
        # Only dynamic pruning says how far it is.
        there = round(state.logs.get("sparsity", self.run.sparsity), 3) >= round(self.run.sparsity, 3)
        if there and f1 > self._best:
            self._best, self._snapshot = f1, state.model.snapshot()

    def on_train_end(self, state: nn.FitState) -> None:
        if self._snapshot is not None:
            state.model.restore(self._snapshot)
            self._best, self._snapshot = -1.0, None


class Ner:
    """One run of the named-entity job.

    Parameters
    ----------
    train, valid, test : path-like or None
        CoNLL files, as for `conll.read`. Without `train`, all three are those of WNUT-17. Without `valid`,
        every tenth sentence of `train` is held out; without `test`, `valid` is the test set as well.
    tag_column : int
        Where the files' tags are.
    sparsity : float
        The share of the prunable weights that goes: LSTM, convolution and Dense; vectors of words stay.
    epochs : int
        Of the dense and of the dynamic training; static pruning fine-tunes for as many in all. Each keeps the
        epoch with the best entity F1 on the validation set, of dynamic pruning among those at the target.
    units : int
        Of the LSTM, in each direction.
    length, word_length : int
        Longer sentences and words are cut: tokens beyond count as found in no entity.
    crf : bool
        Whether the tags of a sentence are chosen together.
    random_state : int
        Same number, same weights.
    out : path-like
        The run's folder; made if missing.
    threads : int or None
        Threads of the plans that are timed.
    say : callable
        Is told what happens, a line at a time.

    Attributes
    ----------
    rows : list of dict
        As `reporting.model_rows` returns them, with ``token_f1`` and ``entity_f1`` of the test set.
    reports : dict
        By model, ``"tokens"`` and ``"entities"``, see `reporting.tagging`.

    Raises
    ------
    ValueError, FormatError
        If an argument or a file is wrong, before anything is written.
    """

    def __init__(
        self,
        train: str | os.PathLike[str] | None = None,
        valid: str | os.PathLike[str] | None = None,
        test: str | os.PathLike[str] | None = None,
        tag_column: int = -1,
        sparsity: float = 0.8,
        epochs: int = 30,
        units: int = 128,
        length: int = 64,
        word_length: int = 20,
        crf: bool = False,
        random_state: int = 0,
        out: str | os.PathLike[str] = "runs/ner",
        threads: int | None = 1,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        if not 0 < sparsity < 1:
            raise ValueError(f"sparsity: expected a number between 0 and 1, got {sparsity!r}")
        positive = {"epochs": epochs, "units": units, "length": length, "word_length": word_length}
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value}")
        self.sparsity, self.epochs, self.units, self.random_state = sparsity, epochs, units, random_state
        self.crf, self.out, self.threads, self.say = bool(crf), Path(out), threads, say
        self.train, self.valid, self.test = _splits(train, valid, test, tag_column)
        self.encoder = Encoder.of(self.train, length, word_length)
        self.unknown = self.encoder.y(self.test)[1]
        self.rows: list[dict[str, Any]] = []
        self.reports: dict[str, Any] = {}

    def run(self) -> None:
        """Train, prune, compile, measure, and write the run's folder.

        It holds a model file for each row, ``encoder.json`` with the vocabularies, ``history.jsonl`` (a line
        an epoch, written as training goes) and ``report.json``.
        """
        self._tell()
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(self.out / "encoder.json", json.dumps(self.encoder.to_json()).encode())
        share = f"{self.sparsity:.0%}"
        with (self.out / "history.jsonl").open("w") as history:
            models = {"dense": self._trained("dense", history)}
            models[f"{share} static"] = self._static(models["dense"], history)
            models[f"{share} dynamic"] = self._trained("dynamic", history)
        files = {}
        for name, model in models.items():
            files[name] = (model, self.out / f"{name.replace('% ', '-')}.safetensors")
            save(*files[name])
            self.reports[name] = self.scores(model, self.test)
        self.say("compiling and timing")
        self.rows, _ = model_rows(files, self.encoder.x(self.test[:BATCH]), None, self.threads)
        for row in self.rows:
            report = self.reports[row["name"]]
            row["token_f1"] = report["tokens"]["micro avg"]["f1-score"]
            row["entity_f1"] = report["entities"]["micro avg"]["f1-score"]
        result = {**self.about(), "rows": self.rows, "reports": self.reports}
        write_atomic(self.out / "report.json", (dumps(result, 1) + "\n").encode())

    def about(self) -> dict[str, Any]:
        """What was run."""
        return {
            "sparsity": self.sparsity,
            "epochs": self.epochs,
            "units": self.units,
            "crf": self.crf,
            "random_state": self.random_state,
            "sentences": {"train": len(self.train), "valid": len(self.valid), "test": len(self.test)},
            "tags": list(self.encoder.tags),
            "unknown_tags": self.unknown,
        }

    def _tell(self) -> None:
        """What of the data is not as the tagger would like it."""
        length = self.encoder.length
        for name, split in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            longer = sum(len(sentence.tokens) > length for sentence in split)
            if longer:
                self.say(f"{name}: {longer} of {len(split)} sentences are cut to {length} tokens")
        for tag, tokens in self.unknown.items():
            self.say(f"test: {tokens} tokens with the tag {tag}, which the training set does not have")

    def scores(self, model: nn.Sequential, sentences: Sentences) -> dict[str, Any]:
        """The report by tag, without O, and that by entity."""
        x = self.encoder.x(sentences)
        logits, last = model.predict(x), model.layers[-1]
        numbers = last.decode(logits, x[..., 0] != 0) if isinstance(last, nn.CRF) else logits.argmax(axis=-1)
        found = self.encoder.decode(numbers, sentences)
        true = [list(sentence.tags) for sentence in sentences]
        labels = [tag for tag in conll.tag_set([*self.train, *sentences]) if tag != "O"]
        tokens = token_report([*chain(*true)], [*chain(*found)], labels)
        return {"tokens": tokens, "entities": entity_scores(true, found)}

    def _fit(self, phase: str, history: TextIO, epochs: int) -> dict[str, Any]:
        """Arguments of `fit`."""
        return {
            "x": self.encoder.x(self.train),
            "y": self.encoder.y(self.train)[0],
            "epochs": epochs,
            "batch_size": BATCH,
            "optimizer": nn.Adam(RATE),
            "loss": (nn.CRFLoss if self.crf else nn.SparseCategoricalCrossentropy)(ignore_index=-1),
            "validation_data": (self.encoder.x(self.valid), self.encoder.y(self.valid)[0]),
            "callbacks": [_Best(self), PhaseLog(history, phase)],
            "packed": 0.2,  # not by measuring: the same number gives the same weights
        }

    def _trained(self, phase: str, history: TextIO) -> nn.Sequential:
        """The tagger from its first weights, dense or pruned on the way."""
        shape = (self.encoder.length, 1 + self.encoder.word_length)
        model = network(self.encoder, self.units, self.crf).build(shape, self.random_state)
        self.say(f"{phase}: {model.num_parameters():,} parameters, {self.epochs} epochs")
        fit = self._fit(phase, history, self.epochs)
        if phase == "dynamic":
            every = max(1, min(20, len(self.train) // BATCH // 4))
            method = Gradual(self.sparsity, scope="erk", every=every, end=0.6)
            fit["callbacks"].append(DynamicPruner(method))
        fit["callbacks"].append(nn.LearningRate("cosine"))
        model.fit(**fit, random_state=self.random_state)
        return model

    def _static(self, dense: nn.Sequential, history: TextIO) -> nn.Sequential:
        epochs = max(1, self.epochs // STEPS)
        self.say(f"static: {STEPS} steps of pruning, {epochs} epoch(s) of fine-tuning after each")
        fit = self._fit("static", history, epochs)
        schedule = Schedule("cubic", STEPS)
        result = prune(
            dense, self.sparsity, scope="erk", schedule=schedule, finetune=fit, random_state=self.random_state
        )
        model: nn.Sequential = result.model
        return model


def _splits(
    train: str | os.PathLike[str] | None,
    valid: str | os.PathLike[str] | None,
    test: str | os.PathLike[str] | None,
    tag_column: int,
) -> tuple[Sentences, Sentences, Sentences]:
    if train is None:
        if valid is not None or test is not None:
            raise ValueError("train: needed beside a file for validation or testing")
        return datasets.load_tagging("wnut17")
    paths = (train, valid, test)
    read = [None if path is None else conll.read(path, tag_column=tag_column) for path in paths]
    learnt, checked, tested = read
    assert learnt is not None
    if checked is None:
        checked = learnt[HELD_OUT - 1 :: HELD_OUT]
        learnt = [sentence for i, sentence in enumerate(learnt) if i % HELD_OUT != HELD_OUT - 1]
        if not checked:
            raise ValueError(f"valid: needed where there are fewer than {HELD_OUT} sentences to train on")
    return learnt, checked, tested or checked
