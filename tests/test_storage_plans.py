"""Plan files that claim what no plan can be: a typed error, before any large allocation."""

import json

import numpy as np
import pytest

import secateur as sc
from secateur import _core, nn


def changed(tmp_path, layers, shape, change):
    """The file of a plan, its description changed."""
    path = tmp_path / "plan.safetensors"
    sc.save(sc.compile(nn.Sequential(layers).build(shape, 0), batch=1, threads=1), path)
    tensors, masks, metadata = _core.decode(path)
    description = json.loads(metadata["plan"])
    description["choices"] = {}
    change(description)
    path.write_bytes(_core.encode(tensors, masks, {**metadata, "plan": json.dumps(description)}))
    return path


def node(description, **attributes):
    description["nodes"][0].update(attributes)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: node(d, pads=[0, 0, 2**31 - 6, 2**31 - 6]),
        lambda d: node(d, pads=[2**64 - 2, 0, 2, 0]),
        lambda d: node(d, pads=[0, 2**63, 0, 2**63]),
        lambda d: node(d, pads=[0, 2**16, 0, 0]),
        lambda d: node(d, dilation=[2**63, 1]),
        lambda d: d.update(input_shape=[4, 2**31, 2**31]),
        lambda d: d.update(input_shape=[4, 2**33, 2**33]),
        lambda d: d.update(input_shape=[4, 2**62, 4]),
        lambda d: d.update(threads=60_000),
        lambda d: d.update(batch=[2**32]),
        lambda d: d.update(batch=[2**64 - 1]),
    ],
)
def test_numbers_beyond_reason_are_refused(tmp_path, change):
    with pytest.raises(sc.FormatError, match=r"plan\.safetensors"):
        sc.load(changed(tmp_path, [nn.Conv2D(4, 3)], (4, 6, 6), change))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("pool", [False, True])
def test_strides_out_of_the_image_are_one_step(tmp_path, groups, pool):
    def layers():
        return [nn.Conv2D(4, 3, groups=groups), *([nn.MaxPool2D(2, 2)] if pool else [])]

    path = changed(tmp_path, layers(), (4, 6, 6), lambda d: d["nodes"][-1].update(strides=[2**40, 2**40]))
    x = np.random.default_rng(0).normal(size=(3, 4, 6, 6)).astype(np.float32)
    whole = nn.Sequential(layers()).build((4, 6, 6), 0).predict(x)
    np.testing.assert_allclose(sc.load(path)(x), whole[:, :, :1, :1], rtol=1e-5, atol=1e-6)


def test_axes_that_no_array_has(tmp_path):
    for shape in ([0, 2**63], [0, 2**64 - 1], [0, 2**62, 8]):
        header = json.dumps(
            {
                "__metadata__": {"format": "secateur", "version": "1", "kind": "model"},
                "a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]},
            }
        ).encode()
        path = tmp_path / "m.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(sc.FormatError, match=r"m\.safetensors"):
            sc.load(path)


@pytest.mark.parametrize("first", ["inside", "slice"])
def test_ids_with_an_axis_of_their_own(first):
    inside = [nn.TimeDistributed([nn.Embedding(10, 4), nn.GlobalMaxPool1D()])]
    model = nn.Sequential([*(inside if first == "inside" else [nn.Slice(0), nn.Embedding(10, 4)]), nn.GRU(3)])
    model = model.build((5, 1), random_state=0)
    plan = sc.compile(model, batch=2)
    x = plan.inputs(2)
    assert x.shape == (2, 5, 1)
    np.testing.assert_allclose(plan(x), model.predict(x), atol=1e-6)
