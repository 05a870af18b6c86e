"""Chains of Dense layers: our plans against ONNX Runtime, OpenVINO and DeepSparse, whole calls from Python.

By default a transformer's feed-forward block, 768-3072-768 with a ReLU between; row-major in and out, random
masks. Sparsity removes single weights, or blocks of rows with ``--rows``. ONNX Runtime runs the dense net: it
does not use zeros, and OpenVINO neither. DeepSparse takes part where its environment is there
(``make bench-deepsparse``).

    python -m benches.peers.ffn --threads 1 --batch 128
    python -m benches.peers.ffn --sizes 512 2048 --batch 1 8 128
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .machine import arguments, pin_threads, record
from .spmm import random_mask


def network(rng: Any, sizes: list[int], density: float, rows: int) -> Any:
    """Dense layers with random weights of that density, in blocks of `rows` rows."""
    import secateur as sc

    layers = [sc.nn.Dense(size, activation="relu") for size in sizes[1:-1]] + [sc.nn.Dense(sizes[-1])]
    model = sc.nn.Sequential(layers).build((sizes[0],), random_state=0)
    for layer in model.layers:
        weight, bias = layer.get_weights()
        m, k = weight.shape
        mask = random_mask(rng, (-(-m // rows), k), density).repeat(rows, axis=0)[:m]
        layer.set_weights([weight * mask, bias])
    return model


def measure(batch: int, options: Any, deepsparse: Any) -> dict[str, Any]:
    """Time every density at one batch size and print the table and the plans' choices."""
    import numpy as np

    import secateur as sc

    from .harness import aligned, compare
    from .onnx_net import bound_call, openvino, session
    from .onnx_net import network as onnx_network

    rng = np.random.default_rng(options.seed)
    x = aligned(rng.standard_normal((batch, options.sizes[0])))
    candidates: dict[str, Callable[[], Any]] = {}
    plans: dict[str, Any] = {}
    for density in (1.0, *options.densities):
        model = network(rng, options.sizes, density, options.rows)
        runner = session(onnx_network(model), options.threads)
        wanted = runner.run(None, {"x": x})[0]
        if density == 1.0:
            candidates["onnxruntime"] = partial(runner.run, None, {"x": x})
            candidates["onnxruntime bound"] = bound_call(runner, x, options.sizes[-1])
            if call := openvino(onnx_network(model), x, options.threads):
                candidates["openvino"] = call
        if deepsparse is not None:
            fixed = onnx_network(model, batch).SerializeToString()
            candidates[f"deepsparse {density:g}"] = deepsparse.candidate(fixed, x, wanted)
        name = f"secateur {density:g}"
        plans[name] = plan = sc.compile(model, batch=(batch,), threads=options.threads)
        if not np.allclose(plan(x), wanted, rtol=1e-3, atol=1e-4):
            raise SystemExit(f"density {density:g} at batch {batch}: the plan's result is not ONNX Runtime's")
        candidates[name] = partial(plan, x)
    found = compare(candidates, baseline="onnxruntime", rounds=options.rounds, threads=options.threads)
    sizes = "-".join(map(str, options.sizes))
    print(found.table(f"{sizes}, batch {batch}, {options.threads} threads, against ONNX Runtime"))
    if options.explain:
        for name, plan in plans.items():
            print(f"  {name}\n{plan.explain()}")
    reports = {name: plan.report(batch) for name, plan in plans.items()}
    return {"sizes": options.sizes, "batch": batch, "rows": found.rows(), "plans": reports}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[768, 3072, 768], help="features of each layer"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.3, 0.2, 0.1, 0.05])
    parser.add_argument("--rows", type=int, default=1, help="rows of the blocks that the masks are made of")
    parser.add_argument("--explain", action="store_true", help="print every plan's choices")
    options = parser.parse_args()
    pin_threads(options.threads)

    from .remote import deepsparse

    peer = deepsparse(options.threads)
    results = [measure(batch, options, peer) for batch in options.batch]
    if not options.no_record:
        of = "single weights" if options.rows == 1 else f"{options.rows}x1 blocks"
        name = f"dense {'-'.join(map(str, options.sizes))}, {of}, {options.threads} threads"
        print(f"recorded in {record(name, {'seed': options.seed, 'results': results})}")


if __name__ == "__main__":
    main()
