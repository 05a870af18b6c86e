"""Sparsity per step."""

import itertools

import numpy as np
import pytest

import secateur as sc
from secateur import schedules
from secateur.schedules import Schedule


@pytest.mark.parametrize("name", sorted(schedules.CURVES))
def test_curves_rise_from_0_to_1(name):
    values = [schedules.CURVES[name](t) for t in np.linspace(0, 1, 101)]
    assert values[0] == 0 and values[-1] == 1
    assert all(a <= b for a, b in itertools.pairwise(values))


def test_cubic_is_that_of_the_paper():
    # s_t = s_f + (s_i - s_f) (1 - t)^3 with s_i = 0
    for t in np.linspace(0, 1, 7):
        assert schedules.cubic(t) == pytest.approx(1 + (0 - 1) * (1 - t) ** 3)


def test_shares_end_at_the_target():
    for name, schedule in schedules.NAMED.items():
        shares = schedule.shares()
        assert shares[-1] == 1, name
        assert len(shares) == schedule.steps * schedule.cycles + schedule.cycles - 1
    assert Schedule(lambda t: t * t, steps=2).shares() == [0.25, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"curve": "square"}, "schedule: unknown name 'square'; choose from cubic, linear or a callable"),
        ({"steps": 0}, "steps: expected a positive integer, got 0"),
        ({"cycles": 1.5}, "cycles: expected a positive integer, got 1.5"),
    ],
)
def test_wrong_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)


def test_unknown_names_list_the_choices():
    with pytest.raises(
        ValueError, match="schedule: unknown name 'slow'; choose from cubic, cyclic, linear, one-shot"
    ):
        schedules.check_schedule("slow")


@pytest.mark.parametrize("curve", [lambda t: 1.5, lambda t: -0.1, lambda t: float("nan"), ["cubic"]])
def test_curves_give_shares(curve):
    with pytest.raises(ValueError, match=r"^schedule: "):
        Schedule(curve, steps=3)
    model = sc.nn.Sequential([sc.nn.Dense(2)])
    with pytest.raises(ValueError, match=r"^schedule: "):
        pruner = sc.DynamicPruner(sc.Gradual(0.5, schedule=curve, every=1, begin=0, end=1.0))
        model.fit(np.ones((64, 4)), np.zeros(64, int), callbacks=[pruner], progress=False)


def test_numbers_of_numpy_are_numbers():
    assert Schedule("linear", np.int64(2), np.int64(2)).shares() == [0.5, 1.0, 0.0, 0.5, 1.0]
    assert sc.MaxDrop(np.float32(0.5)).drop == 0.5
    assert sc.SparseDynamic(0.5, rate=np.float32(0.5)).rate == 0.5
    model = sc.nn.Sequential([sc.nn.Dense(64, activation="relu"), sc.nn.Dense(2)]).build((8,), 0)
    widths = {
        kind: sc.prune(model, 0.5, granularity="neuron", round_to=kind(8)).model.layers[0].units
        for kind in (int, np.int64)
    }
    assert widths[int] == widths[np.int64] == 32
