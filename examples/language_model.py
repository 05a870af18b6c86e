"""A language model of characters, an LSTM of 311,552 prunable weights: perplexity and speed by sparsity.

python examples/language_model.py                       # the dense network, and one of which 90% are removed
python examples/language_model.py --sparsity 0 0.5 0.8 0.9 0.95 --method gradual --sample 400
python examples/language_model.py --data FILE --method rigl --sparsity 0.9 --sparsity 0.95 --json

It reads tiny-shakespeare, or any text, in windows of 64 characters, each from an empty state; the last tenth
of the text is for validation. Every network has the same epochs in all, the same optimizer and the same
batches: Adam, whose learning rate falls to 0 along half a cosine. "static" spends half of them on the dense
network, cuts in up to ten steps during the next quarter, and lets the result settle. Sparsity 0 is the dense
network. ERK spreads the sparsity over the layers, whatever the method.

Perplexity is exp of the mean loss by character. Times are those of plans on one thread, for one window.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import secateur as sc
from secateur.measure import compare
from secateur.nn import LSTM, Adam, Dense, Embedding, LearningRate, Sequential, TimeDistributed
from secateur.reporting import Column, print_table
from secateur.text_datasets import load_text

STEPS, BATCH, RATE = 64, 32, 1e-2

METHODS = {
    "gradual": lambda s, n: sc.Gradual(s, every=max(1, n // 300), begin=0.0, end=0.5, scope="erk"),
    "rigl": lambda s, n: sc.RigL(s, every=max(1, min(100, n // 10))),
    "set": lambda s, n: sc.SET(s, every=max(1, min(100, n // 10))),
}
COLUMNS = [
    Column("sparsity", "sparsity", "{:.1%}".format),
    Column("perplexity", "perplexity", "{:.3f}".format),
    Column("kept weights", "kept", "{:,}".format),
    Column("file", "bytes", lambda size: f"{size / 1000:,.0f} kB"),
    Column("a window", "us", "{:,.0f} µs".format),
    Column("", "speedup", "{:.2f}×".format),
    Column("training", "seconds", "{:.0f} s".format),
]


def network(classes, units):
    """From the ids of a window's characters to the logits of each one's successor."""
    return Sequential(
        [
            Embedding(classes, 32),
            LSTM(units, return_sequences=True),
            TimeDistributed(Dense(classes)),
        ]
    )


def windows(ids):
    """The text, cut into windows, and each character's successor; the rest at the end is left out."""
    n = (len(ids) - 1) // STEPS
    return ids[: n * STEPS].reshape(n, STEPS), ids[1 : n * STEPS + 1].reshape(n, STEPS)


def prepare(text):
    """Windows for training and for validation, and the characters in the order of their ids."""
    least = 10 * (STEPS + 1)
    if len(text) < least:
        raise ValueError(f"data: expected a text of at least {least} characters, got {len(text)}")
    characters = sorted(set(text))
    place = {character: i for i, character in enumerate(characters)}
    ids = np.array([place[character] for character in text])
    end = len(ids) - len(ids) // 10
    return windows(ids[:end]), windows(ids[end:]), characters


def train(model, method, sparsity, data, epochs, seed, quiet=False):
    """The network after `epochs` epochs of training and pruning."""
    x, y = data
    fit = {"batch_size": BATCH, "random_state": seed, "progress": not quiet}
    if method == "static" and sparsity:
        return _static(model, sparsity, x, y, epochs, fit)
    callbacks = [LearningRate("cosine")]
    if method != "dense" and sparsity:
        steps = epochs * -(-len(x) // BATCH)
        callbacks.append(sc.DynamicPruner(METHODS[method](sparsity, steps)))
    model.fit(x, y, epochs=epochs, optimizer=Adam(RATE), callbacks=callbacks, **fit)
    return model


def _static(model, sparsity, x, y, epochs, fit):
    dense, steps = max(1, epochs // 2), max(1, min(10, epochs // 4))
    each = max(1, epochs // 4 // steps)
    model.fit(x, y, epochs=dense, optimizer=Adam(RATE), callbacks=[LearningRate("cosine")], **fit)
    tune = {"x": x, "y": y, "epochs": each, "optimizer": Adam(RATE / 2), **fit}
    schedule = sc.Schedule("cubic", steps)
    pruned = sc.prune(model, sparsity, scope="erk", schedule=schedule, finetune=tune, progress=False).model
    rest = max(1, epochs - dense - steps * each)
    pruned.fit(x, y, epochs=rest, optimizer=Adam(RATE / 2), callbacks=[LearningRate("cosine")], **fit)
    return pruned


def report(model, test):
    """What is left of a network, and what it is worth."""
    tensors = [model.parameters()[name] for name in model.prunable()]
    size = sum(tensor.size for tensor in tensors)
    kept = sum(int((tensor != 0).sum()) for tensor in tensors)
    loss = model.evaluate(*test)["loss"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        sc.save(model, path)
        file = path.stat().st_size
    return {
        "sparsity": 1 - kept / size,
        "perplexity": math.exp(loss),
        "loss": loss,
        "weights": size,
        "kept": kept,
        "bytes": file,
    }


def generate(plan, window, characters, length, rng):
    """So many characters, drawn one by one from the model's distribution after the latest window."""
    window, text = np.array(window), []
    for _ in range(length):
        logits = plan(window[None])[0, -1].astype(np.float64)
        chances = np.exp(logits - logits.max())
        window = np.append(window[1:], rng.choice(len(chances), p=chances / chances.sum()))
        text.append(characters[window[-1]])
    return "".join(text)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", default="shakespeare", help="shakespeare, or a file of text (default %(default)s)"
    )
    parser.add_argument("--method", choices=["dense", "static", *METHODS], default="gradual")
    parser.add_argument(
        "--sparsity",
        type=float,
        nargs="+",
        action="extend",
        help="share of the weights to remove, a network each; may be given several times (default 0 0.9)",
    )
    parser.add_argument("--epochs", type=int, default=6, help="for each network (default %(default)s)")
    parser.add_argument("--units", type=int, default=256, help="of the LSTM (default %(default)s)")
    parser.add_argument(
        "--sample", type=int, default=0, metavar="N", help="print N characters of the last one"
    )
    parser.add_argument("--random-state", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    sparsities = options.sparsity or ([0.0] if options.method == "dense" else [0.0, 0.9])
    for name, least in (("epochs", 1), ("units", 1), ("sample", 0), ("random-state", 0)):
        value = getattr(options, name.replace("-", "_"))
        if value < least:
            parser.error(f"--{name}: expected a number of at least {least}, got {value}")
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            parser.error(f"--sparsity: expected numbers from 0 to below 1, got {sparsity}")
        if sparsity and options.method == "dense":
            parser.error(f"--sparsity: nothing is removed from dense networks, got {sparsity}")
    seed = options.random_state
    try:
        train_set, test_set, characters = prepare(load_text(options.data))
        # Dense kernels take their time whatever the weights are.
        plans, rows = {"dense": compiled(network(len(characters), options.units).build((STEPS,), seed))}, []
        for sparsity in sparsities:
            begin = time.perf_counter()
            model = network(len(characters), options.units).build((STEPS,), seed)
            if not options.json:
                print(f"training at sparsity {sparsity:g}", file=sys.stderr)
            model = train(
                model, options.method, sparsity, train_set, options.epochs, seed, quiet=options.json
            )
            seconds = round(time.perf_counter() - begin, 1)
            rows.append({**report(model, test_set), "seconds": seconds})
            plans[len(rows)] = compiled(model)
    except (OSError, ValueError, sc.SecateurError) as error:
        print(f"language_model.py: {error}", file=sys.stderr)
        return 1
    prompt = test_set[0][0]
    times = compare(plans, prompt[None])
    for number, row in enumerate(rows, 1):
        row |= {"us": times[number].us, "speedup": times[number].speedup}
    result = {
        "method": options.method,
        "random_state": seed,
        "epochs": options.epochs,
        "units": options.units,
        "characters": len(characters),
        "dense_us": times["dense"].us,
        "rows": rows,
    }
    if options.sample:
        rng = np.random.default_rng(seed)
        result["sample"] = generate(plans[len(rows)], prompt, characters, options.sample, rng)
    if options.json:
        print(json.dumps(result))
        return 0
    print_table(rows, COLUMNS, f"LSTM of {options.units} units, {options.method}, {options.epochs} epochs")
    if options.sample:
        print(result["sample"])
    return 0


def compiled(model):
    return sc.compile(model, batch=1, threads=1)


if __name__ == "__main__":
    sys.exit(main())
