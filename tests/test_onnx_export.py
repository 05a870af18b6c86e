"""NumPy models as ONNX files: what ONNX Runtime computes is what `predict` does."""

import numpy as np
import onnx
import onnxruntime
import pytest

import secateur as sc
from secateur import nn

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def check(path, layers, shape, x=None, train=True, **options):
    """Export a model with weights that are no longer those of the start, and compare."""
    model = nn.Sequential(layers).build(shape, random_state=1)
    if train:
        for array in (*model.parameters().values(), *model.buffers().values()):
            array[...] = rng.uniform(0.1, 0.6, array.shape) * rng.choice([1, 1, -0.5], array.shape)
        for name, array in model.buffers().items():
            array[...] = np.abs(array) if name.endswith("var") else array
    sc.export_onnx(model, path, **options)
    x = normal(5, *shape) if x is None else x
    running = session(path)
    given = x.astype(np.int64) if "int64" in running.get_inputs()[0].type else x
    assert running.get_inputs()[0].shape == ["N", *shape]
    for batch in (1, len(x)):
        expected = model.predict(x[:batch])
        (found,) = running.run(None, {"input": given[:batch]})
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    return model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.onnx"


IMAGES = {
    "dense": (
        [nn.Dense(6, "relu"), nn.BatchNorm(), nn.Dropout(), nn.Dense(3, "softmax", use_bias=False)],
        (4,),
    ),
    "convolution": (
        [
            nn.Conv2D(6, (3, 2), strides=(2, 1), padding="same", activation="tanh"),
            nn.BatchNorm(),
            nn.Conv2D(6, 3, groups=3, dilation=(1, 2), use_bias=False),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Dense(4),
        ],
        (3, 9, 8),
    ),
    "pools": ([nn.MaxPool2D(3, 2, "same"), nn.AveragePool2D(2, 2, "same"), nn.Softmax()], (3, 9, 8)),
    "softmax of channels": ([nn.Conv2D(4, 3, activation="softmax")], (1, 5, 5)),
    "residual": (
        [
            nn.Residual([nn.Conv2D(4, 3, padding="same"), nn.ReLU()], [nn.Conv2D(4, 1)]),
            nn.Residual([nn.Conv2D(4, 3, padding="same")]),
            nn.Tanh(),
        ],
        (2, 6, 6),
    ),
    "nothing": ([nn.Dropout()], (3,)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_and_features(path, name):
    check(path, *IMAGES[name])


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(
    "layer", [nn.LSTM, nn.GRU, nn.SimpleRNN, lambda *a, **b: nn.SimpleRNN(*a, "relu", **b)]
)
def test_recurrent_layers(path, layer, use_bias, sequences):
    check(path, [layer(4, return_sequences=sequences, use_bias=use_bias)], (6, 3))
    check(path, [nn.Bidirectional(layer(4, return_sequences=sequences, use_bias=use_bias))], (6, 3))


def test_sequences(path):
    layers = [
        nn.Conv1D(5, 3, padding="same", dilation=2, activation="relu"),
        nn.LayerNorm(),
        nn.Bidirectional(nn.GRU(4, return_sequences=True)),
        nn.TimeDistributed([nn.Dense(6, "tanh"), nn.LayerNorm(), nn.Dropout(), nn.Dense(3, "softmax")]),
    ]
    check(path, layers, (7, 2))
    check(path, [nn.Conv1D(5, 3, strides=2, activation="softmax"), nn.GlobalMaxPool1D(), nn.Dense(2)], (7, 2))
    check(
        path, [nn.TimeDistributed([nn.Conv2D(3, 2), nn.Flatten(), nn.Dense(2)]), nn.Flatten()], (3, 1, 4, 4)
    )


def padded(n, length, most):
    ids = rng.integers(1, most, (n, length)).astype(np.float32)
    ids[rng.random(ids.shape) < 0.2] = 0  # before, within and after
    for row, count in zip(ids, [length, 2, 0, 1, 3], strict=False):
        row[count:] = 0
    return ids


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.SimpleRNN])
def test_padding(path, layer):
    x = padded(5, 6, 20)
    check(path, [nn.Embedding(20, 4, mask_zero=True), nn.Bidirectional(layer(3))], (6,), x)
    both = [
        nn.Embedding(20, 4, mask_zero=True),
        nn.LayerNorm(),
        nn.Bidirectional(layer(3, return_sequences=True)),
        layer(2),
    ]
    check(path, both, (6,), x)
    # Without time left nothing is padding any more.
    check(path, [nn.Embedding(20, 4, True), nn.Conv1D(3, 2), layer(3)], (6,), x)


def test_a_tagger_of_words_and_letters(path):
    letters = nn.TimeDistributed([nn.Embedding(30, 4), nn.Conv1D(6, 3), nn.GlobalMaxPool1D()])
    layers = [
        nn.Concatenate([nn.Slice(0), nn.Embedding(100, 8, mask_zero=True)], [nn.Slice(1, 11), letters]),
        nn.Bidirectional(nn.LSTM(5, return_sequences=True)),
        nn.TimeDistributed(nn.Dense(4)),
        nn.CRF(),
    ]
    x = rng.integers(1, 30, (5, 6, 11)).astype(np.float32)
    x[1, 3:] = 0
    check(path, layers, (6, 11), x)
    assert session(path).get_inputs()[0].type == "tensor(int64)"
    # Ids beside other features stay floats.
    beside = [nn.Concatenate([nn.Slice(0), nn.Embedding(9, 3)], [nn.Slice(1, 3), nn.Dropout()]), nn.LSTM(2)]
    check(path, beside, (6, 3), np.abs(np.floor(normal(5, 6, 3))))
    assert session(path).get_inputs()[0].type == "tensor(float)"


def test_directions_of_different_widths(path):
    layers = [nn.Bidirectional(nn.LSTM(6, return_sequences=True)), nn.Bidirectional(nn.GRU(4)), nn.Dense(3)]
    model = check(path, layers, (5, 4))
    layers[0].back.params = {key: array.copy() for key, array in layers[0].back.params.items()}
    config = model.config()
    config["layers"][1]["back"]["units"] = 3
    narrower = nn.Sequential.from_config({**config, "input_shape": None}).build((5, 4), 0)
    sc.export_onnx(narrower, path)
    x = normal(3, 5, 4)
    np.testing.assert_allclose(
        session(path).run(None, {"input": x})[0], narrower.predict(x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_masks_travel(path, sparse):
    layers = [
        nn.Bidirectional(nn.LSTM(16, return_sequences=True)),
        nn.TimeDistributed(nn.Dense(32, "relu")),
        nn.Flatten(),
        nn.Dense(40),
        nn.Dense(3),
    ]
    model = sc.prune(nn.Sequential(layers).build((6, 5), 0), 0.9, exclude="dense_1").model
    sc.export_onnx(model, path, sparse=sparse)
    x = normal(4, 6, 5)
    np.testing.assert_allclose(
        session(path).run(None, {"input": x})[0], model.predict(x), rtol=1e-5, atol=1e-5
    )
    again = sc.load(path)
    kept = sum(int(mask.sum()) for mask in again.masks.values())
    # What is pruned is known by its zeros, so a kept weight that is 0 would be lost.
    assert kept == sum(int(mask.sum()) for mask in model.masks.values())
    assert set(again.masks) == {
        *(
            f"bidirectional.{key}.{way}"
            for key in ("weight", "recurrent_weight")
            for way in ("forward", "reverse")
        ),
        "time_distributed.dense.weight",
        "dense.weight",
    }
    assert again.ir.metadata_props["secateur.version"]


def test_sparse_files_are_small(path, tmp_path):
    model = nn.Sequential([nn.Dense(1000, "relu"), nn.Dense(300)]).build((800,), 0)
    model = sc.prune(model, 0.9).model
    sc.export_onnx(model, path, sparse=True)
    dense = sum(array.nbytes for name, array in model.parameters().items() if name in model.masks)
    stored = onnx.load(path).graph.sparse_initializer
    assert len(stored) == 2
    assert sum(tensor.ByteSize() for tensor in stored) <= 0.2 * dense
    x = normal(3, 800)
    np.testing.assert_allclose(
        session(path).run(None, {"input": x})[0], model.predict(x), rtol=1e-4, atol=1e-5
    )
    # What was read is written like any other model, and the other way round.
    again = sc.load(path)
    sc.save(again, tmp_path / "dense.onnx")
    assert not onnx.load(tmp_path / "dense.onnx").graph.sparse_initializer
    sc.export_onnx(again, tmp_path / "sparse.onnx", sparse=True)
    assert (tmp_path / "sparse.onnx").stat().st_size == pytest.approx(path.stat().st_size, rel=0.01)
    np.testing.assert_array_equal(
        session(tmp_path / "sparse.onnx").run(None, {"input": x})[0], session(path).run(None, {"input": x})[0]
    )


def test_what_cannot_be_exported(path):
    class Foreign(nn.Layer):
        kind = "foreign_to_onnx"

        def forward(self, x, training=False):
            return x

    try:
        with pytest.raises(sc.UnsupportedOpError, match="foreign_to_onnx"):
            sc.export_onnx(nn.Sequential([Foreign()]).build((3,)), path)
    finally:
        del nn.Layer.kinds["foreign_to_onnx"]
    with pytest.raises(ValueError, match="not built"):
        sc.export_onnx(nn.Sequential([nn.Dense(3)]), path)
    with pytest.raises(TypeError, match="expected a Sequential or OnnxModel, got list"):
        sc.export_onnx([], path)
    assert not path.exists()
