"""Run by `make wheel` in an environment with the wheels and NumPy alone: do the installed packages work?"""

import ctypes
import importlib.util
import tempfile
from pathlib import Path

import numpy as np

import secateur as sc


def main() -> None:
    for absent in ("rich", "typer", "scipy", "sklearn", "matplotlib"):
        assert importlib.util.find_spec(absent) is None, f"{absent} is installed: this test shows nothing"

    rng = np.random.default_rng(0)
    scores = rng.normal(size=(64, 64)).astype(np.float32)
    mask = sc.topk_mask(np.abs(scores), sparsity=0.9)
    weights = sc.apply_mask(scores, mask)
    x = rng.normal(size=(64, 32)).astype(np.float32)
    packed = sc.pack(weights, columns=32)
    assert np.allclose(packed @ x, weights @ x, atol=1e-4)

    nn = sc.nn
    model = nn.Sequential(
        [
            nn.Conv2D(8, 3, activation="relu"),
            nn.MaxPool2D(2),
            nn.Flatten(),
            nn.Dense(16, activation="relu"),
            nn.Dense(2),
        ]
    )
    images = rng.normal(size=(256, 1, 10, 10)).astype(np.float32)
    labels = (images.mean(axis=(1, 2, 3)) > 0).astype(np.int64)
    model.fit(images, labels, epochs=2, random_state=0)
    pruned = sc.prune(model, sparsity=0.8, progress=False).model
    assert pruned.num_parameters(nonzero=True) < 0.3 * model.num_parameters()
    smaller = sc.prune(model, sparsity=0.5, granularity="neuron", progress=False).model

    with tempfile.TemporaryDirectory() as folder:
        for each in (pruned, smaller):
            path = Path(folder) / "model.safetensors"
            sc.save(each, path)
            plan = sc.compile(sc.load(path), batch=(1, 32))
            assert np.allclose(plan(images), each.predict(images), atol=1e-4)
            sc.save(plan, path)
            assert np.allclose(sc.load(path)(images), each.predict(images), atol=1e-4)

    assert ctypes.CDLL(sc.ort.library_path()).RegisterCustomOps

    print(
        f"secateur works beside NumPy {np.__version__} alone: {packed.kernel}, {sc.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
