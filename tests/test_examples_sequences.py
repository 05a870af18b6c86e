"""The examples with sequences, and what they read: they learn, prune, and refuse what is no text or sound."""

import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import wavfile

import secateur as sc
from secateur import datasets, text_datasets

EXAMPLES = Path(__file__).parent.parent / "examples"
SHAKESPEARE = datasets.find("shakespeare", ("input.txt",))


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_line(capsys, name):
    """The error that an example printed, which is one line."""
    error = capsys.readouterr().err
    assert error.startswith(f"{name}.py: ")
    assert error.count("\n") == 1
    return error


# Texts


@pytest.mark.skipif(not SHAKESPEARE, reason="tiny-shakespeare is not at hand")
def test_shakespeare(tmp_path, monkeypatch):
    text = text_datasets.load_text("shakespeare")
    assert len(text) == 1_115_394
    assert len(set(text)) == 65
    assert text.startswith("First Citizen:\nBefore we proceed")
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path))
    (tmp_path / "shakespeare").mkdir()
    for damaged in (b"", text.encode()[:-1], text.encode() + b" ", b"\xff" * 9):
        (tmp_path / "shakespeare" / "input.txt").write_bytes(damaged)
        with pytest.raises(sc.FormatError, match=r"input\.txt.*(damaged|UTF-8)"):
            text_datasets.load_text("shakespeare")


def test_shakespeare_is_downloaded_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(sc.MissingExtraError, match=r"shakespeare is neither .* 'secateur\[data\]'"):
        text_datasets.load_text("shakespeare")
    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append((url, known_hash))
        path.mkdir(parents=True)
        (path / fname).write_text("To be")

    monkeypatch.setitem(sys.modules, "pooch", SimpleNamespace(retrieve=retrieve))
    with pytest.raises(sc.FormatError, match="damaged"):
        text_datasets.load_text("shakespeare")
    url = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    assert asked == [(url, f"sha256:{text_datasets._SHA256}")]


def test_files_of_text(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\n")
    assert text_datasets.load_text(path) == text_datasets.load_text(str(path)) == "naïve\r\n"
    for content, message in ((b"", "no text"), (b"\xef\xbb\xbf", "no text"), (b"a\n\xff", ":2: no UTF-8")):
        path.write_bytes(content)
        with pytest.raises(sc.FormatError, match=message) as caught:
            text_datasets.load_text(path)
        assert str(path) in str(caught.value)
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(sc.FormatError, match=path.name):
            text_datasets.load_text(path)


# The language model


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences of few words in a fixed order: by character less than a bit to guess, of 4.4 bits."""
    rng = np.random.default_rng(0)
    parts = (("the", "a"), ("quick", "lazy", "brown"), ("fox", "dog"), ("jumps", "sleeps"))
    words = [rng.choice(part) + (".\n" if part is parts[-1] else " ") for _ in range(2000) for part in parts]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(words))
    return path


@pytest.mark.parametrize("method", ["dense", "static", "gradual", "rigl", "set"])
def test_language_model(method, text, capsys):
    wanted = [] if method == "dense" else ["--sparsity", "0.8"]
    arguments = ["--data", str(text), "--method", method, "--units", "48", "--epochs", "12", "--json"]
    assert example("language_model").main([*arguments, *wanted, "--sample", "120"]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["rows"]
    characters = len(set(text.read_text()))
    assert result["characters"] == characters
    assert row["weights"] == 4 * 48 * (32 + 48) + characters * 48
    assert row["sparsity"] == pytest.approx(0 if method == "dense" else 0.8, abs=1e-3)
    assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
    assert row["perplexity"] < 1.6
    assert row["us"] > 0 and row["speedup"] > 0
    assert len(result["sample"]) == 120
    assert set(result["sample"]) <= set(text.read_text())
    # Words came out, not only letters.
    assert {"the", "a", "quick", "lazy", "brown", "fox", "dog"} & set(result["sample"].split())


def test_language_model_prints_a_table_by_sparsity(text, capsys):
    arguments = ["--data", str(text), "--units", "16", "--epochs", "1", "--sparsity", "0", "0.5"]
    model = example("language_model")
    assert model.main([*arguments, "--sparsity", "0.9", "--sample", "5"]) == 0
    printed = capsys.readouterr()
    weights = 4 * 16 * (32 + 16) + len(set(text.read_text())) * 16
    for share in (1, 0.5, 0.1):
        assert f"{round(weights * share):,}" in printed.out
    assert [line.split()[0] for line in printed.out.splitlines() if "kB" in line] == [
        "0.0%",
        "50.0%",
        "90.0%",
    ]
    assert printed.err.count("training at sparsity") == 3
    # Fewer weights, a smaller file.
    assert model.main([*arguments, "--json"]) == 0
    dense, half = json.loads(capsys.readouterr().out)["rows"]
    assert half["bytes"] < dense["bytes"]
    assert (dense["sparsity"], half["sparsity"]) == (0, 0.5)


def test_language_model_refuses(tmp_path, capsys):
    model, short = example("language_model"), tmp_path / "short.txt"
    short.write_text("to be " * 20)
    assert model.main(["--data", str(short)]) == 1
    assert "at least 650 characters, got 120" in one_line(capsys, "language_model")
    assert model.main(["--data", str(tmp_path / "none")]) == 1
    assert "no such file" in one_line(capsys, "language_model")
    wrong = ["--epochs 0", "--units 0", "--sample -1", "--random-state -1", "--sparsity 1", "--sparsity nan"]
    for line in (*wrong, "--sparsity", "--method x", "--method dense --sparsity 0.5"):
        with pytest.raises(SystemExit) as exit_:
            model.main(line.split())
        assert exit_.value.code == 2


@pytest.mark.skipif(
    not os.environ.get("SECATEUR_DATA") or not SHAKESPEARE, reason="tiny-shakespeare is not in $SECATEUR_DATA"
)
def test_language_model_on_shakespeare(capsys):
    arguments = ["--sparsity", "0.8", "--epochs", "1", "--units", "32", "--random-state", "0", "--json"]
    assert example("language_model").main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["characters"] == 65
    # Without a model 65, by the frequency of the letters 28.
    assert result["rows"][0]["perplexity"] < 10


# Speech

TONES = (300, 550, 850, 1200, 1700)
TYPES = ("uint8", "int16", "int32", "float32", "float64")


def word(rng, digit, rate, seconds):
    """Two tones, one after the other, in noise: no two of the ten words have the same pair."""
    first, second = divmod(digit, 5)
    pair = TONES[second], TONES[(second + 1 + first) % 5]
    t = np.arange(round(rate * seconds)) / rate
    frequency = np.where(t < seconds / 2, *pair) * rng.uniform(0.97, 1.03)
    sound = np.sin(2 * np.pi * np.cumsum(frequency) / rate) * np.hanning(len(t)) ** 0.3
    return rng.uniform(0.1, 0.8) * (sound + 0.1 * rng.standard_normal(len(t))) / 1.5


def write(path, rate, sound, dtype="int16"):
    kind = np.dtype(dtype)
    if kind.kind != "f":
        sound = sound * (2.0 ** (8 * kind.itemsize - 1) - 1) + (128 if kind.kind == "u" else 0)
    wavfile.write(path, rate, sound.astype(kind))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("digits"), np.random.default_rng(0)
    for digit in range(10):
        for take in range(20):
            rate = int(rng.choice([6000, 8000, 11025, 16000, 22050, 44100]))
            sound = word(rng, digit, rate, rng.uniform(0.25, 0.45))
            if take % 3 == 0:
                sound = np.stack([sound, 0.5 * sound], axis=1)
            speaker = ("ann", "bob")[take % 2]
            write(folder / f"{digit}_{speaker}_{take}.wav", rate, sound, TYPES[take % 5])
    return folder


@pytest.mark.parametrize("net", ["gru", "cnn"])
@pytest.mark.parametrize("method", ["dense", "static", "gradual"])
def test_speech(net, method, digits, capsys):
    arguments = [str(digits), "--net", net, "--method", method, "--frames", "45", "--json"]
    assert example("speech").main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["words"] == [str(digit) for digit in range(10)]
    assert (result["train"], result["test"]) == (160, 40)
    assert result["sparsity"] == pytest.approx(0 if method == "dense" else 0.8, abs=1e-3)
    assert result["accuracy"] > 0.9
    assert result["dense_us"] > 0 and result["pruned_us"] > 0


def test_speakers_are_held_out_and_a_table_printed(digits, capsys):
    speech = example("speech")
    arguments = [str(digits), "--hold-out", "bob", "--epochs", "1", "--frames", "20"]
    assert speech.main(arguments) == 0
    printed = capsys.readouterr()
    assert "training on 100 recordings, testing on 100" in printed.err
    assert "dense plan" in printed.out and "gradual" in printed.out
    assert speech.main([*arguments, "--hold-out", "eve"]) == 1
    assert "no files of speaker 'eve'; there are ann, bob" in one_line(capsys, "speech")
    assert speech.main([*arguments, "--hold-out", "ann"]) == 1
    assert "no files of '0' left for training" in one_line(capsys, "speech")


def test_words_from_folders(tmp_path):
    for name in ("yes", "no"):
        (tmp_path / name).mkdir()
        for i in range(5):
            write(tmp_path / name / f"s{i}_nohash_0.WAV", 8000, np.sin(np.arange(900 * (i + 1))))
    (tmp_path / "README.md").touch()
    speech = example("speech")
    (x, y), (x_test, y_test), words = speech.load(tmp_path, 30)
    assert words == ["no", "yes"]
    assert x.shape == (8, 30, 40) and x_test.shape == (2, 30, 40)
    assert y.tolist() == [0] * 4 + [1] * 4 and y_test.tolist() == [0, 1]
    # The word ends with the last frame: 900 samples are nine frames.
    assert not x[0, :21].any() and x[0, 21:].any(axis=1).all()
    assert speech.load(tmp_path, 30, ["s0"])[1][0].shape[0] == 2
    assert speech.pictures(x).shape == (8, 1, 40, 30)


def test_any_type_rate_and_number_of_channels_is_the_same_sound(tmp_path):
    speech, path = example("speech"), tmp_path / "a.wav"
    filters = speech.mel_filters()
    seconds = 0.5
    expected = None
    for rate in (8000, 11025, 16000, 48000):
        t = np.arange(round(rate * seconds)) / rate
        sound = 0.9 * np.sin(2 * np.pi * 700 * t) * np.exp(-3 * t)
        for dtype in TYPES:
            for channels in (1, 2):
                write(path, rate, sound if channels == 1 else np.stack([sound] * 2, axis=1), dtype)
                heard = speech.read_wav(path)
                assert heard.ndim == 1 and abs(len(heard) - 4000) <= 1
                energies = speech.log_mel(heard, filters)[:47]
                assert energies.mean() == pytest.approx(0, abs=0.1)
                loudest = np.exp(energies).sum(axis=0).argmax()
                expected = loudest if expected is None else expected
                assert loudest == expected
                wave = speech.read_wav(path)[200:3800]
                ideal = np.sin(2 * np.pi * 700 * np.arange(200, 3800) / 8000)
                ideal *= np.exp(-3 * np.arange(200, 3800) / 8000)
                assert np.abs(wave / np.abs(wave).max() - ideal / np.abs(ideal).max()).max() < 0.03
    # The filter of 700 Hz is the loudest.
    centres = speech.RATE / 2 * filters.argmax(axis=1) / (filters.shape[1] - 1)
    assert np.abs(centres - 700).argmin() == expected


def test_mel_filters_are_triangles_that_add_up():
    filters = example("speech").mel_filters()
    assert filters.shape == (40, 257)
    assert (filters.max(axis=1) > 0.5).all()
    # Between the centres of the first and the last one the triangles sum to one.
    first, last = filters[0].argmax() + 1, filters[-1].argmax()
    np.testing.assert_allclose(filters[:, first:last].sum(axis=0), 1, atol=1e-9)


def damaged(kind):
    """A file that is no wav file, or half of one."""
    file = io.BytesIO()
    sound = np.zeros((0, 2) if kind == "empty" else (500, 2), np.int16)
    wavfile.write(file, 0 if kind == "rate" else 8000, sound)
    whole = file.getvalue()
    return {
        "empty": whole,
        "rate": whole,
        "nothing": b"",
        "text": b"hello " * 20,
        "header": whole[:30],
        "no data": whole[:36],
        "truncated": whole[:-401],
        "truncated to frames": whole[:-400],
        "mulaw": whole[:20] + b"\x07\x00" + whole[22:],
        "nan": _nan(),
    }[kind]


def _nan():
    file = io.BytesIO()
    wavfile.write(file, 8000, np.array([0, np.nan, 1], np.float32))
    return file.getvalue()


KINDS = ["empty", "rate", "nothing", "text", "header", "no data", "truncated", "truncated to frames", "mulaw"]


@pytest.mark.parametrize("kind", [*KINDS, "nan"])
def test_speech_names_files_that_it_cannot_read(kind, digits, tmp_path, capsys):
    for i in range(5):
        for digit in range(2):
            write(tmp_path / f"{digit}_a_{i}.wav", 8000, np.sin(np.arange(900.0)))
    (tmp_path / "1_a_2.wav").write_bytes(damaged(kind))
    assert example("speech").main([str(tmp_path), "--json"]) == 1
    assert "1_a_2.wav" in one_line(capsys, "speech")


def test_chunks_that_are_unknown_do_no_harm(tmp_path):
    file = io.BytesIO()
    wavfile.write(file, 8000, np.arange(100, dtype=np.int16))
    content = bytearray(file.getvalue() + b"bext\x04\x00\x00\x00good")
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert len(example("speech").read_wav(tmp_path / "a.wav")) == 100


def test_speech_refuses(tmp_path, capsys, monkeypatch):
    speech = example("speech")
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path, "no wav files")):
        assert speech.main([str(folder), "--json"]) == 1
        assert message in one_line(capsys, "speech")
    for i in range(4):
        write(tmp_path / f"7_a_{i}.wav", 8000, np.sin(np.arange(900.0)))
    assert speech.main([str(tmp_path), "--json"]) == 1
    assert "at least two words, got 4 files of '7'" in one_line(capsys, "speech")
    write(tmp_path / "8_a_0.wav", 8000, np.sin(np.arange(900.0)))
    assert speech.main([str(tmp_path), "--json"]) == 1
    assert "at least 5 files of a word" in one_line(capsys, "speech")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    write(tmp_path / "8_b_0.wav", 8000, np.sin(np.arange(900.0)))
    write(tmp_path / "7_b_0.wav", 8000, np.sin(np.arange(900.0)))
    assert speech.main([str(tmp_path), "--hold-out", "b", "--json"]) == 1
    assert "pip install 'secateur[scipy]'" in one_line(capsys, "speech")
    for line in ("--epochs 0", "--frames 3", "--random-state -1", "--sparsity 1", "--net x", "--method rigl"):
        with pytest.raises(SystemExit) as exit_:
            speech.main([str(tmp_path), *line.split()])
        assert exit_.value.code == 2


def test_silence_and_clicks_have_features(tmp_path):
    speech = example("speech")
    filters = speech.mel_filters()
    for sound in (np.zeros(4000), np.zeros(1), np.ones(1), np.full(3, 1e-300), np.full(3, 1e300)):
        wavfile.write(tmp_path / "a.wav", 8000, sound)
        energies = speech.log_mel(speech.read_wav(tmp_path / "a.wav"), filters)
        assert energies.shape[1] == 40 and len(energies) == (48 if len(sound) == 4000 else 1)
        assert np.isfinite(energies).all() and np.abs(energies.mean()) < 1e-6
