"""Models and training checkpoints in files: bit-exact, resumable, damage refused."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import secateur as sc
from secateur import _core
from secateur.nn import SGD, Adam, BatchNorm, Callback, Conv2D, Dense, Flatten, MaxPool2D, Sequential
from test_storage import mutate

CASES = int(os.environ.get("SECATEUR_CASES", "500"))
GOLDEN = Path(__file__).parent / "data" / "v1-model.safetensors"


def fresh() -> Sequential:
    """A built model with every kind of array: weights, biases, running statistics, masks."""
    model = Sequential(
        [
            Conv2D(3, 3, activation="relu"),
            BatchNorm(),
            MaxPool2D(2),
            Flatten(),
            Dense(5, activation="relu"),
            Dense(2),
        ]
    ).build((1, 6, 6), random_state=0)
    model.set_masks(
        {
            name: np.arange(w.size).reshape(w.shape) % 3 != 1
            for name, w in model.parameters().items()
            if w.ndim > 1
        }
    )
    return model


def small() -> Sequential:
    """The same with weights from a formula: a golden file must not depend on a generator's stream."""
    model = fresh()
    for i, array in enumerate({**model.parameters(), **model.buffers()}.values()):
        array[...] = (np.arange(array.size, dtype=np.float32).reshape(array.shape) * 7 % 11 - 5) / 8 + i
    model.set_masks(model.masks)
    return model


def state(model: Sequential) -> dict:
    """Everything in the model, as bytes."""
    groups = {"weights": model.parameters(), "buffers": model.buffers(), "masks": model.masks}
    return {
        (group, name): (array.dtype.str, array.shape, array.tobytes())
        for group, arrays in groups.items()
        for name, array in arrays.items()
    }


def data(n: int = 96) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(n, 1, 6, 6)).astype(np.float32)
    return x, (x.mean(axis=(1, 2, 3)) > 0).astype(np.int64)


def test_a_model_comes_back_bit_by_bit_and_saves_to_the_same_bytes(tmp_path):
    model = small()
    model.parameters()["dense.bias"][:4] = [-0.0, np.inf, 1e-45, 3.0]
    a, b = tmp_path / "a", tmp_path / "b"
    sc.save(model, a)
    found = sc.load(a)
    assert state(found) == state(model)
    assert found.config() == model.config()
    sc.save(found, b)
    assert a.read_bytes() == b.read_bytes()
    x, _ = data()
    assert found.predict(x).tobytes() == model.predict(x).tobytes()


def test_pruned_models_take_less_space(tmp_path):
    model = Sequential([Dense(256), Dense(10)]).build((256,), random_state=0)
    sizes = []
    for keep in (1.0, 0.1):
        rng = np.random.default_rng(0)
        model.set_masks(
            {name: rng.random(model.parameters()[name].shape) < keep for name in model.prunable()}
        )
        sc.save(model, tmp_path / "a")
        sizes.append((tmp_path / "a").stat().st_size)
    assert sizes[1] < 0.15 * sizes[0]


def test_a_model_that_is_not_built_comes_back_so(tmp_path):
    sc.save(Sequential([Dense(3)]), tmp_path / "a")
    assert not sc.load(tmp_path / "a").built


def test_golden_model_of_version_1(tmp_path):
    found = sc.load(GOLDEN)
    assert state(found) == state(small())
    sc.save(found, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == GOLDEN.read_bytes()


class Grab(Callback):
    """Saves the checkpoint of one epoch to a file; has arrays of every type in its state."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch
        self.state = {
            "score": np.arange(3, dtype=np.float64),
            "count": np.array([2**63 + 1], np.uint64),
            "half": np.array([1.5], np.float16),
            "key": [np.array([2**32 - 1], np.uint32), None, "text", {"deep": np.array(True)}],
            "limit": -np.inf,
        }

    def on_epoch_end(self, state):
        if state.epoch == self.epoch:
            sc.save(state.checkpoint(), self.path)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.loaded = state


@pytest.mark.parametrize("optimizer", [Adam, lambda: SGD(0.05, momentum=0.9)])
@pytest.mark.parametrize("generator", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_a_run_resumed_from_a_file_equals_an_uninterrupted_one(tmp_path, optimizer, generator):
    path = tmp_path / "last.safetensors"
    x, y = data()

    def run(model: Sequential, epochs: int, **more) -> tuple[Sequential, list]:
        rng = np.random.Generator(generator(3))
        history = model.fit(x, y, epochs=epochs, batch_size=16, random_state=rng, progress=False, **more)
        return model, history.epochs

    whole, history = run(fresh(), 4, optimizer=optimizer(), callbacks=[Grab(path, 1)])
    checkpoint = sc.load(path)
    assert checkpoint.epoch == 2
    again = Grab(tmp_path / "other", -1)
    resumed, resumed_history = run(checkpoint.model, 4, callbacks=[again], resume=checkpoint)
    assert state(resumed) == state(whole)
    assert resumed_history == history
    for name in ("score", "count", "half"):
        assert again.loaded[name].dtype == again.state[name].dtype
        assert again.loaded[name].tobytes() == again.state[name].tobytes()
    assert again.loaded["key"][0].dtype == np.uint32
    assert again.loaded["key"][0][0] == 2**32 - 1
    assert again.loaded["key"][1:3] == [None, "text"]
    assert again.loaded["key"][3]["deep"].item() is True
    assert again.loaded["limit"] == -np.inf
    # Saved again, the checkpoint is the same file.
    sc.save(sc.load(path), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_mutated_models_and_checkpoints_are_format_errors(tmp_path):
    path = tmp_path / "a"
    x, y = data(32)
    fresh().fit(x, y, epochs=1, progress=False, callbacks=[Grab(path, 0)])
    rng = np.random.default_rng(1)
    for original in (path.read_bytes(), GOLDEN.read_bytes()):
        refused = 0
        for _ in range(CASES):
            path.write_bytes(mutate(rng, original))
            try:
                sc.load(path)
            except sc.FormatError as error:
                refused += 1
                assert "\n" not in str(error)
        assert refused > CASES // 4


@pytest.mark.parametrize(
    ("change", "to"),
    [
        (b'"units": 5', b'"units": 5000000000'),
        (b'"filters": 3', b'"filters": 3000000000'),
        (b'"input_shape": [1, 6, 6]', b'"input_shape": [1000000000, 6, 6]'),
        (b'"input_shape": [1, 6, 6]', b'"input_shape": [1, 60000, 60000]'),
        (b'"input_shape": [1, 6, 6]', b'"input_shape": {}'),
        (b'"kind": "flatten"', b'"kind": "os.system"'),
        (b'"layers": [', b'"layers": [3, '),
        (b'"loss": "', b'"loss": "no'),
    ],
)
def test_an_architecture_that_does_not_fit_its_weights_is_refused_without_allocation(tmp_path, change, to):
    tensors, masks, metadata = _core.decode(GOLDEN)
    config = metadata["config"].encode()
    assert change in config
    metadata["config"] = config.replace(change, to).decode()
    (tmp_path / "a").write_bytes(_core.encode(tensors, masks, metadata))
    tracemalloc.start()
    try:
        with pytest.raises(sc.FormatError, match="damaged model"):
            sc.load(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_arrays_that_the_model_lacks_are_refused(tmp_path):
    tensors, masks, metadata = _core.decode(GOLDEN)
    for wrong in ({**tensors, "more": np.zeros(2)}, {k: v for k, v in tensors.items() if k != "dense.bias"}):
        (tmp_path / "a").write_bytes(_core.encode(wrong, masks, metadata))
        with pytest.raises(sc.FormatError, match="damaged model"):
            sc.load(tmp_path / "a")


def test_nothing_in_a_file_is_code(tmp_path):
    sc.save(small(), tmp_path / "a")
    assert b"pickle" not in (tmp_path / "a").read_bytes()
    source = Path(sc.__file__).parent
    users = [p.name for p in source.rglob("*.py") if "import pickle" in p.read_text()]
    assert users == []
