"""What NumPy allows arrays to be, and the core does not: Fortran order, bools of other bytes."""

import numpy as np
import pytest

from secateur import _core, nn


def test_fortran_order_is_refused_or_right():
    weights = {"w": np.zeros((2, 3), np.float32, order="F")}
    gradients = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    for optimizer in (nn.SGD(1.0), nn.Adam(1.0)):
        with pytest.raises(ValueError, match="expected a C-contiguous array"):
            optimizer.step(weights, gradients)
    assert not weights["w"].any()
    turned = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    with pytest.raises(ValueError, match=r"^a: expected a C-contiguous array"):
        _core.matmul(turned, np.eye(3, dtype=np.float32))
    model = nn.Sequential([nn.Dense(2)]).build((3,), 0)
    model.layers[0].params["weight"] = turned
    with pytest.raises(ValueError, match=r"^\w: expected a C-contiguous array"):
        model.predict(np.ones((4, 3)))


def test_masks_of_any_bytes():
    model = nn.Sequential([nn.Dense(2)]).build((8,), 0)
    mask = np.full((2, 8), 2, np.uint8).view(bool)
    mask[0, :4] = False
    model.set_masks({"dense.weight": mask})
    x = np.random.default_rng(0).normal(size=(64, 8))
    model.fit(x, (x[:, 0] > 0).astype(int), optimizer=nn.Adam(), random_state=0, progress=False)
    assert np.count_nonzero(model.layers[0].params["weight"]) == 12


def test_masks_of_any_bytes_in_another_order():
    # Brought to C order they are an array of their own, with the same bytes.
    layer = nn.Sequential([nn.Dense(2)]).build((8,), 0).layers[0]
    layer.set_mask("weight", np.full((8, 2), 2, np.uint8).view(bool).T)
    assert layer.masks["weight"].view(np.uint8).max() == 1
