"""Pruned ONNX models in stock ONNX Runtime: with our custom op, against the same models without it.

Magnitude pruning at one go, layer by layer alike; then `sc.compile_onnx`, and both files in sessions of equal
threads. Our own plan of the model (`sc.compile`) runs beside them. Accuracy is not the matter here.

    python -m benches.peers.ort --model ffn --batch 128
    python -m benches.peers.ort --model bert --batch 1 --sparsities 0.8 0.9 --threads 2
    python -m benches.peers.ort --model path/to/model.onnx
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from .machine import arguments, pin_threads, record


def source_of(name: str, folder: Path) -> Path:
    """The file of a model by name, or at a path."""
    import onnx

    from .onnx_models import encoder, feed_forward, magika

    made = {"ffn": feed_forward, "bert": encoder}.get(name)
    if made is not None:
        onnx.save(made(), folder / f"{name}.onnx")
        return folder / f"{name}.onnx"
    found = magika() if name == "magika" else Path(name)
    if found is None:
        raise SystemExit("magika is not installed; pip install magika")
    return found


def measure(source: Path, batch: int, options: Any, folder: Path) -> dict[str, Any]:
    """Time every sparsity at one batch size and print the table."""
    import numpy as np

    import secateur as sc
    from secateur.onnx.session import noise, session

    from .harness import compare

    original = sc.load(source)
    x = noise(original, batch)
    feeds = x if isinstance(x, dict) else {original.inputs[0].name: x}
    plain = session(original, options.threads)
    candidates = {"onnxruntime": partial(plain.run, None, feeds)}
    about: dict[str, Any] = {}
    for sparsity in options.sparsities:
        pruned = sc.prune(
            original, sparsity, scope="layer", granularity=options.granularity, progress=False
        ).model
        out = folder / f"{sparsity}.onnx"
        rewritten = sc.compile_onnx(pruned, out, batch=batch, threads=options.threads, rounds=5)
        ours = _session(out, options.threads)
        wanted = session(pruned, options.threads).run(None, feeds)
        error = max(
            float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-9))
            for a, b in zip(ours.run(None, feeds), wanted, strict=True)
        )
        if error > 1e-4:
            raise SystemExit(
                f"sparsity {sparsity:g} at batch {batch}: outputs are {error:.1e} from ONNX Runtime's"
            )
        candidates[f"custom op {sparsity:g}"] = partial(ours.run, None, feeds)
        if options.plans:
            plan = sc.compile(pruned, batch=batch, threads=options.threads)
            candidates[f"plan {sparsity:g}"] = partial(plan, x)
        about[f"{sparsity:g}"] = {
            "bytes": list(rewritten.nbytes),
            "chains": sum(part.kept for part in rewritten.parts),
            "error": error,
        }
    found = compare(candidates, baseline="onnxruntime", rounds=options.rounds, threads=options.threads)
    print(found.table(f"{options.model}, batch {batch}, {options.threads} threads, against ONNX Runtime"))
    print(about)
    return {"batch": batch, "rows": found.rows(), "about": about}


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    import secateur as sc

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return sc.ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="ffn", help="ffn, bert, magika, or the path of an .onnx file")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9])
    parser.add_argument("--granularity", default="weight")
    parser.add_argument("--plans", action="store_true", help="time sc.compile's plans of the models too")
    options = parser.parse_args()
    pin_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = source_of(options.model, folder)
        results = [measure(source, batch, options, folder) for batch in options.batch]
    if not options.no_record:
        name = f"onnx {Path(options.model).stem}, {options.granularity}, {options.threads} threads"
        print(f"recorded in {record(name, {'results': results})}")


if __name__ == "__main__":
    main()
