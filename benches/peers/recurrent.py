"""An LSTM over a sequence: our plans, dense and pruned, against torch.nn.LSTM and the dense plan.

As many features as units, random inputs. Magnitudes of fresh weights decide what goes: single weights, blocks
of 8 and 16 rows, hidden units (``--sparsity`` of all weights in each case). Whole calls from Python, from
(n, steps, features) to ten outputs behind the last state.

    python -m benches.peers.recurrent --threads 1
    python -m benches.peers.recurrent --threads 2 --units 128 256 512 --batch 1 32
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .machine import arguments, pin_threads, record

OUTPUTS = 10
GRANULARITIES = ("weight", "8x1", "16x1", "neuron")


def torch_lstm(model: Any, x: Any, threads: int) -> Callable[[], Any]:
    """The same in torch."""
    import torch

    torch.set_num_threads(threads)
    layer = model.layers[0]
    lstm = torch.nn.LSTM(x.shape[2], layer.units, batch_first=True)
    dense = torch.nn.Linear(layer.units, OUTPUTS)
    zeros = torch.zeros(4 * layer.units)
    arrays = [torch.from_numpy(layer.params[key]) for key in ("weight", "recurrent_weight", "bias")]
    with torch.inference_mode():
        for parameter, array in zip(lstm.parameters(), [*arrays, zeros], strict=True):
            parameter.copy_(array)
        for parameter, array in zip(dense.parameters(), model.layers[1].get_weights(), strict=True):
            parameter.copy_(torch.from_numpy(array))
    data = torch.from_numpy(x)

    def call() -> Any:
        with torch.inference_mode():
            return dense(lstm(data)[0][:, -1]).numpy()

    return call


def measure(units: int, batch: int, options: Any) -> dict[str, Any]:
    """One size at one batch size, on all sides."""
    import numpy as np

    import secateur as sc

    from .harness import aligned, compare

    rng = np.random.default_rng(options.seed)
    x = aligned(rng.standard_normal((batch, options.steps, units)))
    dense = sc.nn.Sequential([sc.nn.LSTM(units), sc.nn.Dense(OUTPUTS)]).build(x.shape[1:], options.seed)
    candidates: dict[str, Callable[[], Any]] = {"torch": torch_lstm(dense, x, options.threads)}
    plans = {}
    for name in ("dense", *GRANULARITIES):
        model = dense
        if name != "dense":
            model = sc.prune(dense, options.sparsity, granularity=name, progress=False).model
        plans[name] = plan = sc.compile(model, batch=batch, threads=options.threads)
        candidates[f"secateur {name}"] = partial(plan, x)
    if not np.allclose(candidates["torch"](), candidates["secateur dense"](), rtol=1e-3, atol=1e-4):
        raise SystemExit("the dense plan's result is not torch's")
    found = compare(candidates, baseline="torch", rounds=options.rounds, threads=options.threads)
    head = f"LSTM, {units} units, {options.steps} steps, batch {batch}, {options.threads} threads"
    print(found.table(f"{head}, {options.sparsity:.0%} of the weights removed"))
    reports = {name: plan.report(batch) for name, plan in plans.items()}
    return {"units": units, "batch": batch, "rows": found.rows(), "plans": reports}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--units", type=int, nargs="+", default=[512])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--sparsity", type=float, default=0.8)
    options = parser.parse_args()
    pin_threads(options.threads)

    results = [measure(units, batch, options) for units in options.units for batch in options.batch]
    if not options.no_record:
        name = f"LSTM, {options.sparsity:.0%} removed, {options.threads} threads"
        print(f"recorded in {record(name, {'seed': options.seed, 'results': results})}")


if __name__ == "__main__":
    main()
