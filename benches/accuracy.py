"""Accuracy after pruning on Fashion-MNIST, with paired seeds, and what the pruned networks gain in time.

For every seed a network is trained, and from it (or, for the dynamic method, from the same first weights
and order of samples) its pruned versions. Differences are taken seed by seed: their mean ± standard error
is the claim. Static versions are fine-tuned for FINE_TUNE epochs, spread over the steps of the cut, and one
of small steps; `dense+fine-tuning` is the dense network given the same further epochs, so that the pruned
ones are not credited with longer training: both differences are stated. Dynamic versions train for as many
epochs as the dense network. Single weights go by the ERK rule, which thins the layers that take the time.
Finished entries are kept in the work folder, and every epoch of a training: a run that was stopped goes on
where it was.

    python -m benches.accuracy --seeds 5 --threads 2            # hours: trains everything, then times it
    python -m benches.accuracy --seeds 5 --only train --net reference
    python -m benches.accuracy --seeds 5 --only time            # on a quiet machine
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .accuracy_report import PLANS, path, summarise, table, time_net
from .peers.machine import arguments, pin_threads, record

EPOCHS = 10
#: Further epochs of the static versions and of their control: all at Adam's rate of the training but the last
#: one, in which the network settles.
FINE_TUNE = 5
RATE, SETTLE_RATE = 1e-3, 3e-4


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--seeds", type=int, default=5, help="how many paired seeds, from --seed on (default 5)"
    )
    parser.add_argument("--net", choices=list(PLANS), nargs="+", default=list(PLANS))
    parser.add_argument("--only", choices=["train", "time"], help="one of the two halves")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/accuracy"), help="folder of models and results"
    )
    options = parser.parse_args()
    if options.only != "train":  # training may go wherever there is a processor; timing may not
        pin_threads(options.threads)

    import secateur as sc

    sc.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    seeds = range(options.seed, options.seed + options.seeds)
    if options.only != "time":
        data = {net: load(net) for net in options.net}
        for seed in seeds:
            for net in options.net:
                train_seed(net, seed, data[net], options)
    results = {net: summarise(net, seeds, options) for net in options.net}
    if options.only != "train":
        for net, result in results.items():
            result["latency"] = time_net(net, seeds, options)
    for net, result in results.items():
        print(table(net, result))
        if not options.no_record:
            content = {"seeds": list(seeds), "epochs": EPOCHS, "fine_tune": FINE_TUNE, "results": result}
            print(f"recorded in {record(f'accuracy {net} fashion-mnist', content)}")


def load(net: str) -> Mapping[str, Any]:
    """Training and test images as the network's `fit` takes them."""
    from secateur import datasets

    from .nets import IMAGES

    (x, y), (x_test, y_test) = datasets.load("fashion-mnist")
    shape = (-1, *IMAGES[net])
    return {"x": x.reshape(shape), "y": y, "x_test": x_test.reshape(shape), "y_test": y_test}


def train_seed(net: str, seed: int, data: Mapping[str, Any], options: Any) -> None:
    """Train what this seed still misses."""
    import secateur as sc

    from .nets import IMAGES, NETS

    def fresh() -> Any:
        model = NETS[net]()
        model.build(IMAGES[net], random_state=seed)
        return model

    def fit(model: Any, epochs: int, variant: str, rate: float = RATE, callbacks: Any = ()) -> Any:
        # A training that was stopped goes on after its last whole epoch, bit for bit as if it had not been.
        folder = path(net, variant, seed, options).with_suffix("")
        last = folder / "last.safetensors"
        model.fit(
            data["x"],
            data["y"],
            epochs=epochs,
            optimizer=None if last.exists() else sc.nn.Adam(rate),
            random_state=seed,
            callbacks=[*callbacks, sc.nn.Checkpoint(folder)],
            resume=sc.load(last) if last.exists() else None,
            progress=False,
        )
        shutil.rmtree(folder)
        return model

    def dense() -> Any:
        return sc.load(path(net, "dense", seed, options))

    def settled(model: Any, variant: str) -> Any:
        return fit(model, 1, f"{variant}, settling", SETTLE_RATE)

    def cut(sparsity: float, variant: str, steps: int, **how: Any) -> Any:
        tune = {"x": data["x"], "y": data["y"], "epochs": (FINE_TUNE - 1) // steps, "progress": False}
        tune["optimizer"] = sc.nn.Adam(RATE)
        schedule = sc.Schedule("cubic", steps)
        pruned = sc.prune(
            dense(), sparsity, schedule=schedule, finetune=tune, random_state=seed, progress=False, **how
        )
        return settled(pruned.model, variant)

    def dynamic(method: Any, variant: str) -> Any:
        return fit(fresh(), EPOCHS, variant, callbacks=[sc.DynamicPruner(method)])

    makers: dict[str, Callable[[], Any]] = {
        "dense": lambda: fit(fresh(), EPOCHS, "dense"),
        "dense+fine-tuning": lambda: settled(
            fit(dense(), FINE_TUNE - 1, "dense+fine-tuning"), "dense+fine-tuning"
        ),
        "50% neurons": lambda: cut(0.5, "50% neurons", steps=1, granularity="neuron"),
        "90% weights": lambda: cut(0.9, "90% weights", steps=4, scope="erk"),
        "80% weights": lambda: cut(0.8, "80% weights", steps=4, scope="erk"),
        "80% blocks": lambda: cut(0.8, "80% blocks", steps=4, granularity="16x1"),
        "80% units": lambda: cut(0.8, "80% units", steps=4, granularity="neuron"),
        "80% gradual": lambda: dynamic(sc.Gradual(0.8, scope="erk"), "80% gradual"),
        "90% gradual": lambda: dynamic(sc.Gradual(0.9, scope="erk"), "90% gradual"),
        "90% gradient": lambda: dynamic(sc.GradientDynamic(0.9, scope="erk", rate=0.025), "90% gradient"),
    }
    for variant in PLANS[net]:
        target = path(net, variant, seed, options)
        if target.with_suffix(".json").exists():
            continue
        begin = time.perf_counter()
        model = makers[variant]()
        entry = {
            "accuracy": model.evaluate(data["x_test"], data["y_test"])["accuracy"],
            "parameters": model.num_parameters(),
            "nonzero": model.num_parameters(nonzero=True),
            "macs": model.macs(),
            "shapes": {
                name: list(array.shape) for name, array in model.parameters().items() if array.ndim > 1
            },
            "seconds": round(time.perf_counter() - begin, 1),
        }
        sc.save(model, target)
        # The entry comes last: where it is, the model is whole.
        target.with_suffix(".json").write_text(json.dumps(entry, indent=1) + "\n")
        print(
            f"{net}, seed {seed}, {variant}: {entry['accuracy']:.4f} in {entry['seconds']:.0f} s",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
