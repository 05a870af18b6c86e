"""Spoken words, such as the digits of the Free Spoken Digit Dataset, from a folder of wav files.

python examples/speech.py recordings --net gru --method gradual --sparsity 0.8
python examples/speech.py recordings --net cnn --method static --sparsity 0.9 --hold-out theo --json

The word is the file's name up to its first "_" (7_jackson_3.wav), or the folder that the file is in
(seven/jackson_3.wav); the part after that is the speaker. Every fifth file of a word is for testing, or all
files of the speakers that are held out.

Networks see 40 log mel energies of 25 ms every 10 ms, of mono sound at 8 kHz. "static" spends half of the
epochs on the dense network, cuts in up to ten steps during the next quarter, and lets the result settle.
Times are those of plans on one thread, for one recording.
"""

import argparse
import io
import json
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import secateur as sc
from secateur.datasets import TEST_EVERY
from secateur.measure import compare
from secateur.nn import GRU, Adam, Conv2D, Dense, Flatten, LearningRate, MaxPool2D, Sequential
from secateur.reporting import Column, print_table

RATE, WINDOW, HOP, MELS = 8000, 200, 80, 40
FFT = 512
# Samples a second: what lies outside is a damaged header, not speech.
RATES = (1_000, 1_000_000)
BATCH, LEARNING_RATE = 32, 2e-3


def gru(classes):
    """Frames one after another: (frames, mels)."""
    return Sequential([GRU(128), Dense(classes)])


def cnn(classes):
    """A picture of the word: (1, mels, frames)."""
    return Sequential(
        [
            Conv2D(16, 3, padding="same", activation="relu"),
            MaxPool2D(2),
            Conv2D(32, 3, padding="same", activation="relu"),
            MaxPool2D(2),
            Flatten(),
            Dense(64, activation="relu"),
            Dense(classes),
        ]
    )


NETS = {"gru": gru, "cnn": cnn}
COLUMNS = [
    Column("", "name"),
    Column("accuracy", "accuracy", "{:.4f}".format),
    Column("kept weights", "kept", "{:,}".format),
    Column("a recording", "us", "{:,.0f} µs".format),
    Column("", "speedup", "{:.2f}×".format),
]


# From a file to a picture of it


def read_wav(path):
    """The sound in a file: mono, 8 kHz, at most 1 and at least -1."""
    try:
        from scipy.io import wavfile
        from scipy.signal import resample_poly
    except ImportError as error:
        raise sc.MissingExtraError("SciPy reads the wav files; pip install 'secateur[scipy]'") from error
    try:
        with warnings.catch_warnings():
            # Chunks that SciPy does not know do no harm; half a file does.
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
            rate, sound = wavfile.read(io.BytesIO(path.read_bytes()))
    except Exception as error:  # a damaged file can make the reader raise anything
        raise sc.FormatError(f"{path}: no wav file that can be read ({_line(error)})") from error
    if not sound.size:
        raise sc.FormatError(f"{path}: no sound in it")
    if not RATES[0] <= rate <= RATES[1]:
        raise sc.FormatError(f"{path}: expected {RATES[0]:,} to {RATES[1]:,} samples a second, got {rate:,}")
    unsigned, sound = sound.dtype.kind == "u", sound.astype(np.float64)
    if not np.isfinite(sound).all():
        raise sc.FormatError(f"{path}: expected finite numbers, got NaN or infinity")
    if unsigned:
        # wav's bytes rest at 128, all other types at 0.
        sound -= 128
    # The scale first: the mean of two large numbers may be infinite.
    sound /= max(np.abs(sound).max(), np.finfo(np.float64).tiny)
    sound = sound.reshape(len(sound), -1).mean(axis=1)
    common = math.gcd(rate, RATE)
    return resample_poly(sound, RATE // common, rate // common) if rate != RATE else sound


def _line(error):
    return " ".join(str(error).split()) or type(error).__name__


def mel_filters():
    """Triangles that overlap by half, as wide as each other in mel: 2595 log10(1 + f / 700), as in HTK."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    f = np.fft.rfftfreq(FFT, 1 / RATE)
    return np.maximum(0, np.minimum((f - low) / (centre - low), (high - f) / (high - centre)))


def log_mel(sound, filters):
    """Log mel energies (frames, mels), of mean 0 and variance 1 over the recording."""
    sound = np.pad(sound, (0, max(0, WINDOW - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hamming(WINDOW)
    # Digital silence is no further down than the noise of a quiet room, 75 dB below a full tone.
    energies = np.log(np.abs(np.fft.rfft(frames, FFT)) ** 2 @ filters.T + 1e-4)
    return (energies - energies.mean()) / (energies.std() + 1e-8)


def features(paths, frames):
    """(n, frames, mels): the first frames of long recordings; short ones come after zeros, the mean."""
    filters, x = mel_filters(), np.zeros((len(paths), frames, MELS), np.float32)
    for row, path in zip(x, paths, strict=True):
        energies = log_mel(read_wav(path), filters)[:frames]
        row[frames - len(energies) :] = energies
    return x


# From a folder to data


def recordings(folder):
    """Each file with its word and its speaker, in the order of their names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise sc.FormatError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav" and path.is_file())
    if not paths:
        raise sc.FormatError(f"{folder}: no wav files in it")
    words, speakers = [], []
    for path in paths:
        parts = path.stem.split("_")
        word, speaker, *_ = [*parts, ""] if path.parent == folder else [path.parent.name, *parts]
        words.append(word)
        speakers.append(speaker)
    return paths, words, speakers


def load(folder, frames, hold_out=()):
    """Training and test set, (n, frames, mels) and labels each, and the words in the order of the labels."""
    paths, names, speakers = recordings(folder)
    words = sorted(set(names))
    y = np.array([words.index(name) for name in names])
    if len(words) < 2:
        raise ValueError(f"{folder}: expected at least two words, got {len(paths)} files of {names[0]!r}")
    unknown = sorted(set(hold_out) - set(speakers))
    if unknown:
        known = ", ".join(sorted(set(speakers)))
        raise ValueError(f"{folder}: no files of speaker {unknown[0]!r}; there are {known[:200]}")
    test = np.isin(speakers, list(hold_out))
    if not hold_out:
        for label in range(len(words)):
            test[np.flatnonzero(y == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    if not test.any():
        raise ValueError(f"{folder}: expected at least {TEST_EVERY} files of a word, or speakers to hold out")
    missing = set(range(len(words))) - set(y[~test])
    if missing:
        raise ValueError(f"{folder}: no files of {words[min(missing)]!r} left for training")
    x = features(paths, frames)
    return (x[~test], y[~test]), (x[test], y[test]), words


def pictures(x):
    """Frames (n, frames, mels) as images (n, 1, mels, frames)."""
    return np.ascontiguousarray(x.swapaxes(1, 2)[:, None])


# Training


def train(model, method, sparsity, data, epochs, seed, quiet=False):
    """The network after `epochs` epochs of training and pruning."""
    x, y = data
    fit = {"batch_size": BATCH, "random_state": seed, "progress": not quiet}
    if method == "static":
        return _static(model, sparsity, x, y, epochs, fit)
    callbacks = [LearningRate("cosine")]
    if method == "gradual":
        steps = epochs * -(-len(x) // BATCH)
        callbacks.append(sc.DynamicPruner(sc.Gradual(sparsity, every=max(1, steps // 300))))
    model.fit(x, y, epochs=epochs, optimizer=Adam(LEARNING_RATE), callbacks=callbacks, **fit)
    return model


def _static(model, sparsity, x, y, epochs, fit):
    dense, steps = max(1, epochs // 2), max(1, min(10, epochs // 4))
    each = max(1, epochs // 4 // steps)
    model.fit(x, y, epochs=dense, optimizer=Adam(LEARNING_RATE), callbacks=[LearningRate("cosine")], **fit)
    tune = {"x": x, "y": y, "epochs": each, "optimizer": Adam(LEARNING_RATE / 2), **fit}
    pruned = sc.prune(
        model, sparsity, schedule=sc.Schedule("cubic", steps), finetune=tune, progress=False
    ).model
    rest = max(1, epochs - dense - steps * each)
    callbacks = [LearningRate("cosine")]
    pruned.fit(x, y, epochs=rest, optimizer=Adam(LEARNING_RATE / 2), callbacks=callbacks, **fit)
    return pruned


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="with wav files in it, or in folders in it")
    parser.add_argument("--net", choices=list(NETS), default="gru")
    parser.add_argument("--method", choices=["dense", "static", "gradual"], default="gradual")
    parser.add_argument("--sparsity", type=float, default=0.8, help="share of the weights to remove")
    parser.add_argument("--epochs", type=int, default=20, help="in all (default %(default)s)")
    parser.add_argument("--frames", type=int, default=100, help="10 ms each (default %(default)s)")
    parser.add_argument("--hold-out", action="append", default=[], metavar="SPEAKER", help="may be repeated")
    parser.add_argument("--random-state", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    for name, least in (("epochs", 1), ("frames", 4), ("random-state", 0)):
        value = getattr(options, name.replace("-", "_"))
        if value < least:
            parser.error(f"--{name}: expected a number of at least {least}, got {value}")
    if not 0 <= options.sparsity < 1:
        parser.error(f"--sparsity: expected a number from 0 to below 1, got {options.sparsity}")
    seed, quiet = options.random_state, options.json
    try:
        (x, y), (x_test, y_test), words = load(options.folder, options.frames, options.hold_out)
        if options.net == "cnn":
            x, x_test = pictures(x), pictures(x_test)
        model = NETS[options.net](len(words)).build(x.shape[1:], seed)
        plans = {"dense": sc.compile(model, batch=1, threads=1)}
        if not quiet:
            print(f"training on {len(x):,} recordings, testing on {len(x_test):,}", file=sys.stderr)
        begin = time.perf_counter()
        model = train(model, options.method, options.sparsity, (x, y), options.epochs, seed, quiet)
        seconds = round(time.perf_counter() - begin, 1)
        plans["pruned"] = sc.compile(model, batch=1, threads=1)
    except (OSError, ValueError, sc.SecateurError) as error:
        print(f"speech.py: {error}", file=sys.stderr)
        return 1
    times = compare(plans, x_test[:1])
    accuracy = model.evaluate(x_test, y_test)["accuracy"]
    tensors = [model.parameters()[name] for name in model.prunable()]
    weights = sum(tensor.size for tensor in tensors)
    kept = sum(int((tensor != 0).sum()) for tensor in tensors)
    result = {
        "net": options.net,
        "method": options.method,
        "random_state": seed,
        "epochs": options.epochs,
        "words": words,
        "train": len(x),
        "test": len(x_test),
        "accuracy": accuracy,
        "sparsity": 1 - kept / weights,
        "weights": weights,
        "kept": kept,
        "dense_us": times["dense"].us,
        "pruned_us": times["pruned"].us,
        "speedup": times["pruned"].speedup,
        "seconds": seconds,
    }
    if options.json:
        print(json.dumps(result))
        return 0
    plan = {"name": "dense plan", "accuracy": None, "kept": weights, "us": times["dense"].us, "speedup": 1.0}
    pruned = {"name": options.method, **result, "us": times["pruned"].us}
    rows = [pruned] if options.method == "dense" else [plan, pruned]
    print_table(rows, COLUMNS, f"{options.net}, {len(words)} words, {len(x_test):,} recordings, {seconds} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
