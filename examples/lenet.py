"""One point of the curve of accuracy by sparsity: LeNet-300-100 or LeNet-5, a method, a sparsity, a seed.

python examples/lenet.py --net 300-100 --data fashion-mnist --method rigl --sparsity 0.98 --epochs 30
python examples/lenet.py --net 5 --data MNIST_FOLDER --method dns --sparsity 0.991 --random-state 0 --json

Every method has the same epochs in all, the same optimizer and the same batches: Adam, whose learning rate
falls to 0 along half a cosine. "static" spends half of them on the dense network, cuts in up to ten steps
during the next quarter, and lets the result settle.
"""

import argparse
import json
import sys
import time

import secateur as sc
from secateur.nn import Adam, Conv2D, Dense, Flatten, LearningRate, MaxPool2D, Sequential

BATCH, RATE = 100, 2e-3


def lenet_300_100() -> Sequential:
    """LeCun et al. 1998: 266,610 parameters on 28×28 images."""
    return Sequential([Flatten(), Dense(300, activation="relu"), Dense(100, activation="relu"), Dense(10)])


def lenet_5() -> Sequential:
    """The variant that Caffe made popular: 431,080 parameters."""
    return Sequential(
        [
            Conv2D(20, 5),
            MaxPool2D(2),
            Conv2D(50, 5),
            MaxPool2D(2),
            Flatten(),
            Dense(500, activation="relu"),
            Dense(10),
        ]
    )


NETS = {"300-100": lenet_300_100, "5": lenet_5}
METHODS = {
    "gradual": lambda s, n: sc.Gradual(s, every=max(1, n // 300), begin=0.0, end=0.5),
    "sdp": lambda s, n: sc.SparseDynamic(s, begin=n // 10, rate=_rate(s, 0.6 * n)),
    "gdp": lambda s, n: sc.GradientDynamic(s, every=20, begin=n // 10, rate=_rate(s, 0.6 * n / 20)),
    "set": lambda s, n: sc.SET(s, every=100),
    "rigl": lambda s, n: sc.RigL(s, every=100),
    "dns": lambda s, n: sc.DNS(s, every=max(1, n // 300), begin=0.1, end=0.7, until=0.9),
    "acdc": lambda s, n: sc.ACDC(s, cycles=5),
    "snip": lambda s, n: sc.SNIP(s),
}


def _rate(sparsity, updates):
    """The share to remove per update so that so many updates reach the target."""
    return 1 - (1 - min(sparsity, 0.9999)) ** (1 / max(1, updates))


def train(net, method, sparsity, data, epochs, seed, quiet=False):
    """The network after `epochs` epochs of training and pruning."""
    x, y = data
    model = NETS[net]().build(x.shape[1:], random_state=seed)
    for name in model.prunable():
        if model.parameters()[name].ndim == 2:
            # Half of Glorot's range, about what torch begins with: magnitudes tell sooner what was learnt.
            model.parameters()[name][...] *= 0.5
    fit = {"batch_size": BATCH, "random_state": seed, "progress": not quiet}
    if method == "static":
        return _static(model, sparsity, x, y, epochs, fit)
    callbacks = [LearningRate("cosine")]
    if method != "dense":
        steps = epochs * -(-len(x) // BATCH)
        callbacks.append(sc.DynamicPruner(METHODS[method](sparsity, steps)))
    model.fit(x, y, epochs=epochs, optimizer=Adam(RATE), callbacks=callbacks, **fit)
    return model


def _static(model, sparsity, x, y, epochs, fit):
    dense, steps = epochs // 2, max(1, min(10, epochs // 4))
    each = max(1, epochs // 4 // steps)
    model.fit(x, y, epochs=dense, optimizer=Adam(RATE), callbacks=[LearningRate("cosine")], **fit)
    tune = {"x": x, "y": y, "epochs": each, "optimizer": Adam(RATE / 2), **fit}
    pruned = sc.prune(
        model, sparsity, schedule=sc.Schedule("cubic", steps), finetune=tune, progress=False
    ).model
    rest = max(1, epochs - dense - steps * each)
    pruned.fit(x, y, epochs=rest, optimizer=Adam(RATE / 2), callbacks=[LearningRate("cosine")], **fit)
    return pruned


def report(model, net, method, seed, epochs, test, seconds):
    """What is left, and what it is worth."""
    accuracy = model.evaluate(*test)["accuracy"]
    tensors = {name: model.parameters()[name] for name in model.prunable()}
    size = sum(tensor.size for tensor in tensors.values())
    kept = sum(int((tensor != 0).sum()) for tensor in tensors.values())
    return {
        "net": net,
        "method": method,
        "random_state": seed,
        "epochs": epochs,
        "accuracy": accuracy,
        "error": 1 - accuracy,
        "sparsity": 1 - kept / size,
        "weights": size,
        "kept": kept,
        "parameters": model.num_parameters(),
        "parameters_kept": model.num_parameters(nonzero=True),
        "density": {name: float((tensor != 0).mean()) for name, tensor in tensors.items()},
        "seconds": round(seconds, 1),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=list(NETS), default="300-100")
    parser.add_argument(
        "--data",
        default="digits",
        help="digits, fashion-mnist, an .npz file or a folder of idx files (default %(default)s)",
    )
    parser.add_argument("--method", choices=["dense", "static", *METHODS], default="dns")
    parser.add_argument("--sparsity", type=float, default=0.9, help="share of the weights to remove")
    parser.add_argument(
        "--epochs", type=int, default=30, help="in all, whatever the method (default %(default)s)"
    )
    parser.add_argument("--random-state", type=int, default=0)
    parser.add_argument("--save", help="where to keep the network (.safetensors)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs: expected a positive number, got {options.epochs}")
    if not 0 <= options.sparsity <= 1:
        parser.error(f"--sparsity: expected a number in [0, 1], got {options.sparsity}")
    try:
        train_set, test_set = sc.datasets.load(options.data)
        begin = time.perf_counter()
        model = train(
            options.net, options.method, options.sparsity, train_set, options.epochs, options.random_state,
            quiet=options.json,
        )  # fmt: skip
    except (ValueError, sc.SecateurError) as error:
        print(f"lenet.py: {error}", file=sys.stderr)
        return 1
    result = report(
        model, options.net, options.method, options.random_state, options.epochs, test_set,
        time.perf_counter() - begin,
    )  # fmt: skip
    if options.save:
        sc.save(model, options.save)
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"LeNet-{options.net}, {options.method}: accuracy {result['accuracy']:.4f} with "
            f"{result['kept']:,} of {result['weights']:,} weights ({100 - 100 * result['sparsity']:.2f}%), "
            f"{result['seconds']} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
