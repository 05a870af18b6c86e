"""Single convolutions: plans of one Conv2D, dense and pruned, against ONNX Runtime on the same dense layer.

Both sides are the whole call from Python, NCHW in and out, with bias and ReLU. The mask is random. ONNX
Runtime gains nothing from zeros, so it runs the dense layer alone; all densities of a shape are timed in one
interleaved run. DeepSparse takes part where its environment is there (``make bench-deepsparse``).

    python -m benches.peers.conv --set 3x3 --densities 1 0.2 0.1
    python -m benches.peers.conv --batch 32 --explain
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from .machine import arguments, pin_threads, record
from .spmm import random_mask


@dataclass(frozen=True)
class Layer:
    """One convolution over square images, padded so that stride 1 keeps their size."""

    channels: int
    filters: int
    pixels: int
    size: int = 3
    groups: int = 1
    stride: int = 1

    def __str__(self) -> str:
        kind = f"{self.size}x{self.size}" + (f" in {self.groups} groups" if self.groups > 1 else "")
        kind += f", stride {self.stride}" if self.stride > 1 else ""
        return f"{kind}, {self.channels} -> {self.filters} channels, {self.pixels} px"

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        outputs = (-(-self.pixels // self.stride)) ** 2
        return self.channels // self.groups * self.filters * self.size**2 * outputs


SETS = {
    "3x3": [Layer(64, 64, 56), Layer(128, 128, 28), Layer(256, 256, 14), Layer(512, 512, 7)],
    "1x1": [
        Layer(64, 256, 56, 1),
        Layer(256, 64, 56, 1),
        Layer(512, 128, 28, 1),
        Layer(1024, 256, 14, 1),
        Layer(2048, 512, 7, 1),
    ],
    "mobile": [Layer(128, 128, 56, 1), Layer(512, 512, 14, 1)],
    "depthwise": [
        Layer(channels, channels, pixels, 3, channels, stride)
        for channels, pixels, stride in [
            (32, 112, 1),
            (64, 112, 2),
            (128, 56, 1),
            (128, 56, 2),
            (256, 28, 1),
            (512, 14, 1),
            (512, 14, 2),
            (1024, 7, 1),
        ]
    ],
}


def measure(layer: Layer, batch: int, options: Any, peer: Any) -> dict[str, Any]:
    """Time one layer at every density and print the table."""
    import numpy as np

    import secateur as sc

    from .harness import aligned, compare
    from .onnx_net import convolution, session

    rng = np.random.default_rng(options.seed)
    x = aligned(rng.standard_normal((batch, layer.channels, layer.pixels, layer.pixels)))
    shape = (layer.filters, layer.channels // layer.groups, layer.size, layer.size)
    dense = rng.standard_normal(shape).astype(np.float32)
    bias = rng.standard_normal(layer.filters).astype(np.float32)
    candidates: dict[str, Callable[[], Any]] = {}
    plans: dict[str, Any] = {}
    work: dict[str, float] = {}
    for density in options.densities if layer.groups == 1 else [1.0]:
        weight = dense * random_mask(rng, (dense.size, 1), density).reshape(shape)
        runner = session(convolution(weight, bias, layer.groups, stride=layer.stride), options.threads)
        wanted = runner.run(None, {"x": x})[0]
        if peer is not None:
            image = (batch, layer.pixels, layer.pixels)
            fixed = convolution(weight, bias, layer.groups, image, layer.stride)
            name = f"deepsparse {density:g}"
            candidates[name] = peer.candidate(fixed.SerializeToString(), x, wanted)
            work[name] = 2.0 * layer.macs * batch * density
        if "onnxruntime" not in candidates:
            candidates["onnxruntime"] = partial(runner.run, None, {"x": x})
            work["onnxruntime"] = 2.0 * layer.macs * batch
        conv = sc.nn.Conv2D(
            layer.filters,
            layer.size,
            strides=layer.stride,
            padding="same",
            activation="relu",
            groups=layer.groups,
        )
        model = sc.nn.Sequential([conv]).build(x.shape[1:], random_state=0)
        conv.set_weights([weight, bias])
        plan = sc.compile(model, batch=batch, threads=options.threads)
        if not np.allclose(plan(x), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max()):
            raise SystemExit(f"{layer} at density {density}: wrong result")
        name = f"secateur {density:g}"
        plans[name], candidates[name] = plan, partial(plan, x)
        work[name] = 2.0 * layer.macs * batch * density
    found = compare(candidates, baseline="onnxruntime", rounds=options.rounds, threads=options.threads)
    print(found.table(f"{layer}, batch {batch}, {options.threads} threads, against ONNX Runtime", work))
    reports = {name: plan.report(batch, dense=False) for name, plan in plans.items()}
    for name, steps in reports.items():
        if options.explain:
            print(f"    {name}: " + ", ".join(f"{step['kernel']} {step['us']:.0f} us" for step in steps))
    return {"layer": asdict(layer), "batch": batch, "rows": found.rows(), "plans": reports}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__, rounds=20)
    densities = [1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02]
    parser.add_argument("--densities", type=float, nargs="+", default=densities)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--set", choices=list(SETS), nargs="+", default=list(SETS), help="which layers")
    parser.add_argument("--pixels", type=int, nargs="+", help="only images of these sizes")
    parser.add_argument("--explain", action="store_true", help="print the steps of every plan")
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    from .remote import deepsparse

    peer = deepsparse(options.threads)
    sc.set_num_threads(options.threads)
    layers = [layer for name in options.set for layer in SETS[name]]
    results = [
        measure(layer, batch, options, peer)
        for batch in options.batch
        for layer in layers
        if not options.pixels or layer.pixels in options.pixels
    ]
    if not options.no_record:
        name = f"conv {' '.join(options.set)}, {options.threads} threads"
        print(f"recorded in {record(name, {'seed': options.seed, 'results': results})}")


if __name__ == "__main__":
    main()
