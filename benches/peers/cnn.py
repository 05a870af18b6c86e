"""Whole networks: plans of CNNs, dense and pruned, against ONNX Runtime on the same net.

Candidates are called from Python with a NumPy batch and return NumPy logits; "bound" is ONNX Runtime with
input and output bound beforehand. ONNX Runtime also gets the net with half the parameters removed as
neurons: it may profit too.

    python -m benches.peers.cnn --threads 1 --batch 1 32
    python -m benches.peers.cnn --model trained.safetensors
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .machine import arguments, pin_threads, record


def variants(model: Any) -> dict[str, Any]:
    """The dense model; half of it removed, as neurons (unless residual connections hold those together) and
    as single weights; 90% of the weights, by ERK.
    """
    import secateur as sc

    quiet: dict[str, Any] = {"progress": False}
    chain = all(layer.kind != "residual" for layer in model.layers)
    neurons = {"50% neurons": sc.prune(model, 0.5, granularity="neuron", **quiet).model} if chain else {}
    return {
        "dense": model,
        **neurons,
        "50% weights": sc.prune(model, 0.5, **quiet).model,
        "90% weights": sc.prune(model, 0.9, scope="erk", **quiet).model,
    }


def measure(models: dict[str, Any], batch: int, options: Any) -> dict[str, Any]:
    """Time every variant at one batch size and print the table and the plans' choices."""
    import numpy as np

    import secateur as sc

    from .harness import aligned, compare
    from .onnx_net import bound_call, network, session

    x = aligned(np.random.default_rng(options.seed).random((batch, *models["dense"].input_shape)))
    candidates: dict[str, Callable[[], Any]] = {}
    plans: dict[str, Any] = {}
    for name, model in models.items():
        runner = session(network(model), options.threads)
        wanted = runner.run(None, {"x": x})[0]
        if name in ("dense", "50% neurons"):
            candidates[f"onnxruntime {name}"] = partial(runner.run, None, {"x": x})
        if name == "dense":
            candidates["onnxruntime dense bound"] = bound_call(runner, x)
        plans[name] = plan = sc.compile(model, batch=(batch,), threads=options.threads)
        if not np.allclose(plan(x), wanted, rtol=1e-3, atol=1e-4):
            raise SystemExit(f"{name} at batch {batch}: the plan's logits are not ONNX Runtime's")
        candidates[f"secateur {name}"] = partial(plan, x)
    found = compare(candidates, baseline="onnxruntime dense", rounds=options.rounds, threads=options.threads)
    print(found.table(f"batch {batch}, {options.threads} threads, against ONNX Runtime's dense net"))
    ours = found.timings["secateur dense"]
    ratios = {name: round(ours.min / found.timings[f"secateur {name}"].min, 3) for name in models}
    print(
        "    against our own dense plan: "
        + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
    )
    if options.explain:
        for name, plan in plans.items():
            print(f"  {name}\n{plan.explain()}")
    reports = {name: plan.report(batch) for name, plan in plans.items()}
    return {"batch": batch, "rows": found.rows(), "against_own_dense": ratios, "plans": reports}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__, rounds=60)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument(
        "--model", type=Path, help="a saved model of the reference CNN's shape; default: random weights"
    )
    parser.add_argument("--net", choices=["reference", "cnn-1m", "resnet-20"], default="reference")
    parser.add_argument("--explain", action="store_true", help="print every plan's choices")
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    from ..nets import IMAGES, NETS

    sc.set_num_threads(options.threads)
    if options.model:
        model = sc.load(options.model)
    else:
        model = NETS[options.net]()
        model.build(IMAGES[options.net], random_state=options.seed)
    models = variants(model)
    sizes = {
        name: {
            "parameters": each.num_parameters(),
            "nonzero": each.num_parameters(nonzero=True),
            "macs": each.macs(),
        }
        for name, each in models.items()
    }
    for name, size in sizes.items():
        print(f"{name}: " + ", ".join(f"{key} {value:,}" for key, value in size.items()))
    results = [measure(models, batch, options) for batch in options.batch]
    if not options.no_record:
        content = {"seed": options.seed, "net": options.net, "sizes": sizes, "results": results}
        print(f"recorded in {record(f'{options.net} cnn, {options.threads} threads', content)}")


if __name__ == "__main__":
    main()
