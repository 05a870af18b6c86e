"""Calibration data: what layers are given, in NumPy and ONNX models; Wanda, obs, bias correction."""

import tracemalloc

import numpy as np
import pytest

import secateur as sc
from secateur import nn
from secateur.calibration import BATCH, Calibration
from secateur.models.view import view

N = BATCH + 9


def samples(*shape, seed=0, n=N):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def mlp(seed=0):
    layers = [nn.Dense(24, activation="relu"), nn.Dense(16, activation="relu"), nn.Dense(3)]
    return nn.Sequential(layers).build((10,), seed)


def cnn(groups=1, padding="same", strides=2, dilation=1):
    convolution = nn.Conv2D(
        6, (3, 2), strides=strides, padding=padding, activation="relu", groups=groups, dilation=dilation
    )
    return nn.Sequential([nn.Conv2D(4, 3, padding="same"), convolution, nn.Flatten(), nn.Dense(3)]).build(
        (2, 9, 8), 0
    )


def tagger(cell=nn.LSTM):
    layers = [
        nn.Embedding(30, 6, mask_zero=True),
        nn.Bidirectional(cell(5, return_sequences=True)),
        nn.TimeDistributed(nn.Dense(8, activation="relu")),
        cell(4),
        nn.Dense(3),
    ]
    return nn.Sequential(layers).build((7,), 0)


def ids():
    rng = np.random.default_rng(0)
    x = rng.integers(1, 30, (N, 7))
    x[np.arange(7) >= rng.integers(2, 8, N)[:, None]] = 0
    return x


def residual():
    layers = [
        nn.Conv2D(4, 3, padding="same", use_bias=False),
        nn.BatchNorm(),
        nn.Residual([nn.Conv2D(4, 3, padding="same", activation="relu")]),
        nn.Flatten(),
        nn.Dense(3),
    ]
    return nn.Sequential(layers).build((2, 6, 6), 0)


def sequence():
    layers = [nn.Conv1D(6, 3, padding="same", dilation=2, activation="relu"), nn.GRU(5), nn.Dense(2)]
    return nn.Sequential(layers).build((8, 4), 0)


MODELS = {
    "mlp": (mlp, samples(10)),
    "cnn": (cnn, samples(2, 9, 8)),
    "groups": (lambda: cnn(2, "valid", 1, 2), samples(2, 9, 8)),
    "lstm": (tagger, ids()),
    "rnn": (lambda: tagger(nn.SimpleRNN), ids()),
    "gru": (lambda: tagger(nn.GRU), ids()),
    "residual": (residual, samples(2, 6, 6)),
    "sequence": (sequence, samples(8, 4)),
}


def exported(model, tmp_path):
    sc.export_onnx(model, tmp_path / "m.onnx")
    return sc.load(tmp_path / "m.onnx")


def whole(found, name, x):
    return np.concatenate(list(view(found).layer_inputs(name, Calibration(x))), axis=1)


# What layers are given


def test_inputs_of_dense_layers_are_the_outputs_before():
    model, x = mlp(), samples(10)
    inner = np.maximum(x @ model.parameters()["dense.weight"].T + model.parameters()["dense.bias"], 0)
    np.testing.assert_allclose(whole(model, "dense_1.weight", x)[0], inner, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [cnn(), cnn(2), cnn(1, "valid", (1, 2)), cnn(2, "valid", 1, 2)])
def test_patches_times_filters_are_the_convolution(model):
    x = samples(2, 9, 8)
    first, second = model.layers[:2]
    given, bias = first.forward(x), second.params["bias"]
    wanted = second.forward(given).transpose(1, 0, 2, 3)
    matrices = whole(model, "conv2d_1.weight", x)
    filters = second.params["weight"].reshape(len(matrices), -1, matrices.shape[2])
    # Parts may hold the pixels of several images, one after another.
    found = (filters @ matrices.swapaxes(1, 2)).reshape(6, -1) + bias[:, None]
    np.testing.assert_allclose(np.maximum(found, 0).reshape(wanted.shape), wanted, rtol=1e-3, atol=1e-4)


def test_states_before_each_step():
    model = nn.Sequential([nn.SimpleRNN(4), nn.Dense(2)]).build((5, 3), 0)
    x, params = samples(5, 3), model.parameters()
    w, r, b = (params[f"simple_rnn.{key}"] for key in ("weight", "recurrent_weight", "bias"))
    state, found = np.zeros((N, 4)), []
    for step in range(5):
        found.append(state)
        state = np.tanh(x[:, step] @ w.T + state @ r.T + b)
    wanted = np.stack(found, axis=1).reshape(-1, 4)
    np.testing.assert_allclose(
        whole(model, "simple_rnn.recurrent_weight", x)[0], wanted, rtol=1e-3, atol=1e-5
    )
    np.testing.assert_array_equal(whole(model, "simple_rnn.weight", x)[0], x.reshape(-1, 3))
    assert not model.layers[0].return_sequences and "forward" not in vars(model.layers[0])


@pytest.mark.parametrize("name", MODELS)
def test_numpy_and_onnx_agree(name, tmp_path):
    make, x = MODELS[name]
    model = make()
    other = exported(model, tmp_path)
    theirs = view(other).parameters()
    assert theirs
    for tensor, mine in matched(view(model).parameters(), theirs):
        ours, found = whole(model, mine, x), whole(other, tensor, x)
        assert ours.shape == found.shape, tensor
        # Steps may be in another order.
        ours, found = (np.einsum("gni,gnj->gij", a, a, dtype=np.float64) for a in (ours, found))
        np.testing.assert_allclose(ours, found, rtol=1e-3, atol=1e-2, err_msg=tensor)


def matched(mine, theirs):
    """ONNX tensors with ours: two directions of a layer are one initializer there."""
    for name in theirs:
        direction = {".forward": "ahead", ".reverse": "back"}.get(name[name.rfind(".") :])
        key = name.rpartition(".")[0] if direction else name
        own = key.replace("bidirectional.", f"bidirectional.{direction}.") if direction else key
        if own in mine:
            yield name, own


@pytest.mark.parametrize("size", [1, 4])
def test_models_of_one_batch_size_see_every_sample(size):
    from test_onnx_models import build, node, normal

    arrays = {"w": normal(6, 5), "v": normal(5, 2), "shape": np.array([-1, 6])}
    nodes = [
        node("Reshape", ["x", "shape"], ["a"]),
        node("MatMul", ["a", "w"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MatMul", ["c", "v"], ["y"]),
    ]
    model = build(nodes, arrays, (size, 3, 6), (3 * size, 2))
    x = samples(3, 6, n=8)
    np.testing.assert_allclose(whole(model, "w", x)[0], x.reshape(-1, 6))
    found = list(view(model).layer_inputs("v", [x[:5]]))
    assert sum(part.shape[1] for part in found) == 3 * size * -(-5 // size)


# Statistics


def test_moments_are_those_of_all_samples():
    model, pruned, x = mlp(), sc.prune(mlp(), 0.5, progress=False).model, samples(10)
    found = Calibration(x).moments(view(pruned), view(model), "dense_1.weight")
    now, before = (whole(each, "dense_1.weight", x)[0].astype(np.float64) for each in (pruned, model))
    for mine, wanted in (
        (found.gram[0], now.T @ now / N),
        (found.cross[0], before.T @ now / N),
        (found.mean[0], now.mean(0)),
        (found.mean_before[0], before.mean(0)),
    ):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-6)
    norms = Calibration(x).norms(view(pruned), "dense_1.weight")
    np.testing.assert_allclose(norms, np.tile(np.sqrt(np.mean(now**2, axis=0)), (16, 1)), rtol=1e-6)


def test_pairs_mappings_and_callables_are_the_same_samples(tmp_path):
    x = samples(10)
    other = exported(mlp(), tmp_path)
    kw = {"criterion": "wanda", "progress": False}
    wanted = sc.prune(mlp(), 0.5, data=x, **kw).masks
    for data in ((x, np.zeros(N, int)), x.astype(np.float64), lambda: [x[:20], (x[20:], None)], x.tolist()):
        masks = sc.prune(mlp(), 0.5, data=data, **kw).masks
        assert all(np.array_equal(masks[name], wanted[name]) for name in wanted)
    masks = sc.prune(other, 0.5, data={"input": x}, **kw).masks
    assert sum(np.sum(masks[name] != wanted[name]) for name in wanted) <= 4


# Criteria


def test_wanda_scores_weights_by_their_inputs():
    model, x = mlp(), samples(10) * np.arange(1, 11)
    masks = sc.prune(model, 0.6, criterion="wanda", scope="output", data=x, progress=False).masks
    for name, weight in view(model).parameters().items():
        scores = np.abs(weight) * np.sqrt(np.mean(np.square(whole(model, name, x)[0]), axis=0))
        for row, kept in zip(scores, masks[name], strict=True):
            assert abs(kept.sum() - 0.4 * len(row)) < 1
            assert row[kept].min() >= row[~kept].max()
        assert masks[name].sum() == weight.size - round(0.6 * weight.size)


@pytest.mark.parametrize("granularity", ["weight", "4x1"])
def test_wanda_compares_layers_relative_to_their_outputs(granularity):
    model, x = mlp(), samples(10)
    how = {"criterion": "wanda", "granularity": granularity, "data": x, "progress": False}
    wanted = sc.prune(model, 0.6, **how).masks
    assert len({round(float(mask.mean()), 2) for mask in wanted.values()}) > 1
    # The same function but for a factor: sizes of weights change, and of what layers are given.
    weights = view(model).parameters()
    weights["dense.weight"] *= 8
    weights["dense_2.weight"] /= 4
    masks = sc.prune(model, 0.6, **how).masks
    assert all(np.array_equal(masks[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("criterion", ["wanda", "obs"])
@pytest.mark.parametrize("scope", ["global", "layer", "output", "erk", "lamp"])
@pytest.mark.parametrize("make", [mlp, cnn])
def test_counts_are_exact_and_zeros_zero(criterion, scope, make):
    model = make()
    x = samples(*model.input_shape)
    result = sc.prune(model, 0.7, criterion=criterion, scope=scope, data=x, progress=False)
    total = sum(mask.size for mask in result.masks.values())
    assert sum(int(mask.sum()) for mask in result.masks.values()) == pytest.approx(0.3 * total, abs=2)
    for name, weight in view(result.model).parameters().items():
        assert not weight[~result.masks[name]].any()


@pytest.mark.parametrize("granularity", ["2:4", "4x1"])
@pytest.mark.parametrize("criterion", ["wanda", "obs"])
def test_groups_hold(criterion, granularity):
    model, x = mlp(), samples(10)
    result = sc.prune(model, 0.5, criterion=criterion, granularity=granularity, data=x, progress=False)
    mask = result.masks["dense_1.weight"]
    if granularity == "2:4":
        assert np.all(mask.reshape(16, 6, 4).sum(2) == 2)
    else:
        assert set(mask.reshape(4, 4, 24).sum(1).ravel()) <= {0, 4}


def test_neurons_by_wanda():
    model, x = mlp(), samples(10)
    x[:, :5] *= 100
    smaller = sc.prune(
        model, 0.5, criterion="wanda", granularity="neuron", data=x, round_to=None, progress=False
    )
    assert smaller.sparsity == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_obs_is_nearer_to_the_model_than_masks(name, tmp_path):
    make, x = MODELS[name]
    model = make()
    for each in (model, exported(model, tmp_path)):
        wanted = np.concatenate(list(view(each).outputs([x])))

        def distance(each=each, wanted=wanted, **how):
            result = sc.prune(each, 0.6, scope="layer", progress=False, **how)
            found = np.concatenate(list(view(result.model).outputs([x])))
            return np.mean(np.square(found - wanted))

        assert distance(criterion="obs", data=x) < 0.7 * distance()


def test_in_steps_and_in_place(tmp_path):
    x = samples(10)
    for model in (mlp(), exported(mlp(), tmp_path)):
        how = {"criterion": "obs", "data": x, "progress": False}
        result = sc.prune(model, 0.8, schedule="cubic", **how)
        assert result.sparsity == pytest.approx(0.8, abs=0.002)
        once = sc.prune(model, 0.8, **how)
        again = sc.prune(model, 0.8, inplace=True, **how)
        assert again.model is model
        for first, second in zip(view(once.model).outputs([x]), view(model).outputs([x]), strict=True):
            np.testing.assert_array_equal(first, second)


# Bias correction


def mean_shifts(model, pruned, x):
    """The mean error of each Dense layer's output, bias included."""
    shifts = []
    for name, weight in view(model).parameters().items():
        layer = name.rpartition(".")[0]
        outputs = [
            whole(each, name, x)[0].mean(0) @ w.T + each.parameters()[f"{layer}.bias"]
            for each, w in ((model, weight), (pruned, view(pruned).parameters()[name]))
        ]
        shifts.append(np.abs(outputs[0] - outputs[1]).max())
    return shifts


@pytest.mark.parametrize("criterion", ["l1", "wanda", "obs"])
def test_corrected_layers_give_the_same_on_average(criterion):
    model, x = mlp(), np.abs(samples(10))
    how = {"criterion": criterion, "scope": "layer", "progress": False}
    data = {} if criterion == "l1" else {"data": x}
    plain = sc.prune(model, 0.7, **{**how, **data}, bias_correction=False).model
    corrected = sc.prune(model, 0.7, **how, data=x, bias_correction=True).model
    assert max(mean_shifts(model, corrected, x)) < 1e-4 < max(mean_shifts(model, plain, x))
    assert all(np.array_equal(a, plain.parameters()[n]) for n, a in model.parameters().items() if "bias" in n)


def test_a_normalization_takes_the_correction(tmp_path):
    model, x = residual(), samples(2, 6, 6)
    before = model.buffers()["batch_norm.running_mean"].copy()
    result = sc.prune(model, 0.6, data=x, bias_correction=True, progress=False)
    assert np.abs(result.model.buffers()["batch_norm.running_mean"] - before).max() > 1e-3
    assert np.array_equal(model.buffers()["batch_norm.running_mean"], before)
    bare = nn.Sequential([nn.Dense(4, use_bias=False)]).build((10,), 0)
    kept = sc.prune(bare, 0.5, data=samples(10), bias_correction=True, progress=False)
    assert list(kept.model.parameters()) == ["dense.weight"]


@pytest.mark.parametrize("name", MODELS)
def test_onnx_biases_are_corrected_as_ours(name, tmp_path):
    make, x = MODELS[name]
    model = make()
    other = exported(model, tmp_path)
    shapes = view(model).parameters()
    for tensor, mine in matched(shapes, view(other).parameters()):
        shift = np.full(len(shapes[mine]), 0.5, np.float32)
        ours, theirs = view(model).clone(), view(other).clone()
        if ours.add_bias(mine, shift) and theirs.add_bias(tensor, shift):
            for one, two in zip(ours.outputs([x]), theirs.outputs([x]), strict=True):
                # Folded, a normalization divides by a little more than its deviation.
                np.testing.assert_allclose(one, two, rtol=1e-2, atol=5e-3, err_msg=tensor)
        elif "batch_norm" not in str(model.buffers()):
            raise AssertionError(f"{tensor} has a bias")


# Bad input


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (samples(9), r"data: expected shape \(n, 10\)"),
        (samples(10, n=0), "data: expected at least one sample"),
        (np.full((4, 10), np.nan), r"data: expected finite numbers, got nan at \[0, 0\]"),
        (np.array([["a"] * 10]), "data: expected real numbers"),
        (np.float32(1), "data: expected at least one sample"),
        ((samples(10),) * 3, "data: expected samples or a pair"),
        (None, "data: criterion 'wanda' needs samples"),
        (list, "data: expected at least one batch"),
        ([[1.0], [1.0, 2.0]], "data: "),
    ],
)
@pytest.mark.parametrize("onnx", [False, True])
def test_bad_data_is_refused_by_name(data, words, onnx, tmp_path):
    model = exported(mlp(), tmp_path) if onnx else mlp()
    words = words.replace("(n, 10\\)", "(N, 10\\) for input") if onnx else words
    before = [array.copy() for array in view(model).parameters().values()]
    with pytest.raises(ValueError, match=words):
        sc.prune(model, 0.5, criterion="wanda", data=data, progress=False, inplace=True)
    assert all(map(np.array_equal, before, view(model).parameters().values()))


def test_inputs_by_other_names_are_refused(tmp_path):
    other = exported(mlp(), tmp_path)
    with pytest.raises(ValueError, match="data: it misses 'input'; the model takes input"):
        sc.prune(other, 0.5, criterion="obs", data={"x": samples(10)}, progress=False)
    with pytest.raises(ValueError, match="data: expected as many samples for each input"):
        sc.prune(other, 0.5, criterion="obs", data={"a": samples(10), "b": samples(10, n=3)}, progress=False)
    with pytest.raises(ValueError, match="data: the model has one input"):
        sc.prune(mlp(), 0.5, criterion="obs", data={"x": samples(10)}, progress=False)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"criterion": "obs", "granularity": "neuron", "sparsity": 0.5}, "granularity: criterion 'obs'"),
        ({"criterion": "obs", "threshold": 0.5}, "threshold: criterion 'obs'"),
        ({"granularity": "neuron", "sparsity": 0.5, "bias_correction": True}, "bias_correction: not for"),
        ({"granularity": "neuron", "sparsity": 0.5, "scope": "output"}, "scope: unknown name 'output'"),
    ],
)
def test_what_does_not_go_together_is_refused(how, words):
    with pytest.raises(ValueError, match=words):
        sc.prune(mlp(), data=samples(10), progress=False, **how)


def test_criteria_without_data_are_refused_elsewhere():
    with pytest.raises(ValueError, match="data: bias_correction needs samples"):
        sc.prune(mlp(), 0.5, bias_correction=True, progress=False)
    with pytest.raises(ValueError, match="criterion: 'wanda' takes calibration data"):
        sc.Gradual(0.5, criterion="wanda")
    with pytest.raises(ValueError, match="norms: criterion 'wanda' needs"):
        sc.importance(np.ones((2, 2)), criterion="wanda")
    with pytest.raises(ValueError, match=r"norms: expected what broadcasts to the weights' shape \(2, 2\)"):
        sc.importance(np.ones((2, 2)), criterion="wanda", norms=np.ones(3))


# Memory


def test_memory_does_not_grow_with_the_samples():
    """A batch and one layer's moments, however many samples: 4,000 of them make matrices of 180 MB."""
    model = nn.Sequential([nn.Conv2D(8, 3), nn.Conv2D(8, 3), nn.Flatten(), nn.Dense(3)]).build((1, 16, 16), 0)
    x = samples(1, 16, 16, n=200)
    peaks = []
    for times in (2, 20):
        tracemalloc.start()
        sc.prune(model, 0.5, criterion="obs", data=lambda times=times: iter([x] * times), progress=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 150e6
