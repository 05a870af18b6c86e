"""Methods in which weights come back, each against a plain NumPy rendering of its paper; and SNIP."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secateur as sc
import test_methods
from secateur import nn
from secateur.budgets import erk, keep_count
from secateur.granularity import Blocks, Pattern, Weights
from secateur.methods.exchange import exchange
from test_methods import SIZE, Keep, blobs, mlp, same, state

METHODS = {
    "set": lambda: sc.SET(0.8, every=7),
    "set blocks": lambda: sc.SET(0.5, every=5, granularity="4x1", scope="layer"),
    "rigl": lambda: sc.RigL(0.8, every=7),
    "rigl global": lambda: sc.RigL(0.9, every=3, drop=0.5, scope="global"),
    "rigl 2:4": lambda: sc.RigL(0.5, every=5, granularity="2:4", exclude="dense"),
    "dns": lambda: sc.DNS(0.8, every=4),
    "dns blocks": lambda: sc.DNS(0.7, every=4, granularity="4x1", scope="layer", schedule="linear"),
    "acdc": lambda: sc.ACDC(0.8, cycles=3),
    "acdc once": lambda: sc.ACDC(0.8, cycles=1, criterion="taylor"),
    "snip": lambda: sc.SNIP(0.8),
    "snip neurons": lambda: sc.SNIP(0.5, samples=64, granularity="neuron"),
}
OPTIMIZERS = {"adam": lambda: nn.Adam(0.01), "sgd": lambda: nn.SGD(0.05, momentum=0.9, nesterov=True)}


class Watch(nn.Callback):
    """Keeps what every update saw and did, and checks that what is masked is 0, in the slots too."""

    def __init__(self, method):
        self.method, self.updates, self.steps = method, [], 0

    def on_epoch_begin(self, state):
        # Behind the pruner, so that the masks that training begins with are seen.
        self.masks = state.model.masks

    def on_batch_end(self, state):
        self.steps += 1
        params, masks = state.model.parameters(), state.model.masks
        for name, mask in masks.items():
            assert not params[name][~mask].any()
            # The slots belong to the masks of the step, before the update.
            before = self.masks.get(name, np.ones_like(mask))
            for slot in state.optimizer.slots.values():
                # Of what is packed there are no others.
                if slot[name].shape == before.shape:
                    assert not slot[name][~before].any()
            grown = mask & ~before
            if not isinstance(self.method, sc.DNS):
                assert not params[name][grown].any()
        if self.method.due(state.batch + 1):
            grads = {name: grad.copy() for name, grad in state.model.gradients().items()}
            self.updates.append((state.batch + 1, self.masks, masks, self.weights(state), grads))
        self.masks = masks

    def weights(self, state):
        return None


def run(method, epochs=10, optimizer=None, watch=None, model=None):
    x, y = blobs()
    model, watch = model or mlp(), watch or Watch(method)
    pruner = sc.DynamicPruner(method)
    model.fit(
        x, y, epochs=epochs, optimizer=optimizer or nn.Adam(0.01), callbacks=[pruner, watch], random_state=0,
        progress=False,
    )  # fmt: skip
    return model, pruner, watch


@pytest.mark.parametrize("name", [*test_methods.METHODS, *METHODS])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_weight_revives_in_1000_steps_and_the_target_holds(name, optimizer):
    method = {**test_methods.METHODS, **METHODS}[name]()
    model, pruner, watch = run(method, 100, OPTIMIZERS[optimizer]())
    assert watch.steps == 1000
    names = method.names if name != "snip neurons" else model.prunable()
    zeros = sum(int((~model.masks[name]).sum()) for name in names)
    target, size = method.target, sum(model.parameters()[name].size for name in names)
    group = {"set blocks": 3 * 4, "dns blocks": 3 * 4, "snip neurons": 40}.get(name, 0)
    # Where each of the three layers has its own number, each rounds by itself.
    assert abs(zeros - target * size) <= 3 + group
    assert pruner.sparsity == pytest.approx(zeros / size)


# SET and RigL


def rendering(held, magnitudes, growth, sets, share):
    """Drop and grow, by sorting."""
    new = {name: mask.copy() for name, mask in held.items()}
    for names in sets:
        inside = [(magnitudes[n].flat[i], n, i) for n in names for i in np.flatnonzero(held[n])]
        outside = sorted((-growth[n].flat[i], n, i) for n in names for i in np.flatnonzero(~held[n]))
        moved = min(round(share * len(inside)), len(outside))
        # Of equal scores the earlier is kept, so the later is dropped.
        inside.sort(key=lambda entry: (entry[0], [-byte for byte in entry[1].encode()], -entry[2]))
        for _, name, i in inside[:moved]:
            new[name].flat[i] = False
        for _, name, i in outside[:moved]:
            new[name].flat[i] = True
    return new


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
    levels = draw(st.sampled_from([3, 1000]))
    names = [f"t{i}" for i in range(len(shapes))]

    def make(values):
        return {name: values(shape) for name, shape in zip(names, shapes, strict=True)}

    density = draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
    held = make(lambda shape: rng.random(shape) < density)
    magnitudes = make(lambda shape: rng.integers(0, levels, shape).astype(np.float32))
    growth = make(lambda shape: rng.integers(0, levels, shape).astype(np.float32))
    sets = [names] if draw(st.booleans()) else [[name] for name in names]
    return held, magnitudes, growth, sets, draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]))


@given(cases())
def test_exchange_of_weights_is_that_of_sorting(case):
    held, magnitudes, growth, sets, share = case
    found = exchange(held, magnitudes, growth, Weights(), sets, share)
    expected = rendering(held, magnitudes, growth, sets, share)
    for name in held:
        assert np.array_equal(found[name], expected[name])


@given(cases())
def test_exchange_of_blocks_is_that_of_their_means(case):
    held, magnitudes, growth, sets, share = case
    blocks = Blocks(2, 3)

    def means(scores):
        return {name: blocks.sums(s) / blocks.sizes(s.shape) for name, s in scores.items()}

    held = {name: blocks.spread(blocks.sums(mask) > 0, mask.shape) for name, mask in held.items()}
    found = exchange(held, magnitudes, growth, blocks, sets, share)
    small = {name: blocks.sums(mask) > 0 for name, mask in held.items()}
    expected = rendering(small, means(magnitudes), means(growth), sets, share)
    for name, mask in held.items():
        assert np.array_equal(found[name], blocks.spread(expected[name], mask.shape))


@given(cases(), st.sampled_from([(1, 2), (2, 4), (3, 4)]))
def test_exchange_within_groups_keeps_every_group(case, pattern):
    held, magnitudes, growth, sets, share = case
    n, m = pattern
    held = {name: sc.nm_mask(np.where(mask, 1.0, 0.5), n, m) for name, mask in held.items()}
    found = exchange(held, magnitudes, growth, Pattern(n, m), sets, share)
    moved = 0
    for name, mask in held.items():
        for start in range(0, mask.shape[1], m):
            old, new = mask[:, start : start + m], found[name][:, start : start + m]
            assert np.array_equal(old.sum(axis=1), new.sum(axis=1))
            for row in np.flatnonzero((old != new).any(axis=1)):
                dropped, grown = np.flatnonzero(old[row] & ~new[row]), np.flatnonzero(new[row] & ~old[row])
                assert len(dropped) == len(grown) == 1
                at = (row, slice(start, start + m))
                assert magnitudes[name][at][dropped[0]] == magnitudes[name][at][old[row]].min()
                assert growth[name][at][grown[0]] == growth[name][at][~old[row]].max()
                moved += 1
    able = [
        sum(
            int(((part := mask[:, i : i + m]).any(axis=1) & ~part.all(axis=1)).sum())
            for name in names
            for mask in [held[name]]
            for i in range(0, mask.shape[1], m)
        )
        for names in sets
    ]
    wanted = [round(share * sum(int(held[name].sum()) for name in names)) for names in sets]
    assert moved == sum(map(min, able, wanted))


class Seen(Watch):
    """Also the weights before an update: those after it, and what it dropped as the step left it."""

    def on_epoch_begin(self, state):
        super().on_epoch_begin(state)
        optimizer = state.optimizer
        if not hasattr(optimizer, "plain"):
            optimizer.plain = step = optimizer.step

            def stepped(params, grads, masks=None):
                step(params, grads, masks)
                self.left = {name: array.copy() for name, array in params.items()}

            optimizer.step = stepped

    def weights(self, state):
        return self.left


@pytest.mark.parametrize("scope", ["erk", "layer", "global"])
def test_rigl_is_the_papers(scope):
    method = sc.RigL(0.75, drop=0.4, every=6, end=60, scope=scope)
    model, pruner, watch = run(method, watch=Seen(method))
    assert [step for step, *_ in watch.updates] == list(range(6, 61, 6))
    names = model.prunable()
    sets = [names] if scope == "global" else [[name] for name in names]
    for step, before, after, weights, grads in watch.updates:
        share = 0.4 / 2 * (1 + math.cos(math.pi * step / 60))
        magnitudes = {name: np.abs(weights[name]) for name in names}
        slopes = {name: np.abs(grads[name]) for name in names}
        expected = rendering(before, magnitudes, slopes, sets, share)
        assert same(expected, after)
        assert sum(int(mask.sum()) for mask in after.values()) == keep_count(SIZE, 0.75)
        if step < 60 and scope != "erk":
            assert any((before[name] & ~after[name]).any() for name in names)
    assert {record["sparsity"] for record in pruner.history} == {pruner.sparsity}
    assert pruner.history[0]["batch"] == -1
    if scope == "erk":
        kept = erk({name: model.parameters()[name].shape for name in names}, 0.75)
        assert {name: int(mask.sum()) for name, mask in model.masks.items()} == kept


def test_set_drops_the_smallest_and_grows_anywhere():
    method = sc.SET(0.75, drop=0.3, every=5, end=1.0, scope="layer")
    _, _, watch = run(method, watch=Seen(method))
    grown_at = np.zeros((24, 10), int)
    assert [step for step, *_ in watch.updates] == list(range(5, 101, 5))
    for _, before, after, weights, _ in watch.updates:
        for name, mask in before.items():
            dropped, grown = mask & ~after[name], after[name] & ~mask
            assert dropped.sum() == grown.sum() == round(0.3 * mask.sum())
            smallest = np.sort(np.abs(weights[name][mask]))[: dropped.sum()]
            np.testing.assert_array_equal(np.sort(np.abs(weights[name][dropped])), smallest)
        grown_at += after["dense.weight"] & ~before["dense.weight"]
    # 20 updates grow 18 of 180 each: nearly all places had their turn.
    assert (grown_at > 0).mean() > 0.7


@pytest.mark.parametrize("method", [sc.SET(0.5, every=1000), sc.RigL(0.5, every=1000)])
def test_first_masks_have_nothing_to_do_with_weights_of_the_same_seed(method):
    """Weights and lots from one stream of numbers would leave the positive weights alone."""
    model = nn.Sequential([nn.Dense(200), nn.Dense(100)]).build((100,), random_state=3)
    weights = {name: model.parameters()[name].copy() for name in model.prunable()}
    x = np.zeros((4, 100), np.float32)
    pruner = sc.DynamicPruner(method)
    y = np.zeros(4, int)
    model.fit(x, y, epochs=1, callbacks=[pruner], random_state=3, progress=False)
    for name, mask in model.masks.items():
        assert 0.45 < (weights[name][mask] > 0).mean() < 0.55


# SNIP


def test_snip_keeps_what_the_loss_would_miss_most():
    x, y = blobs(250)
    model, twin = mlp(), mlp()
    method = sc.SNIP(0.9, samples=10_000)
    pruner, watch = sc.DynamicPruner(method), Watch(method)
    model.fit(x, y, epochs=2, callbacks=[pruner, watch], random_state=0, progress=False)
    twin.compute_gradients(x, y)
    scores = {n: np.abs(twin.parameters()[n] * twin.gradients()[n]) for n in twin.prunable()}
    flat = np.concatenate([s.ravel() for s in scores.values()])
    threshold = np.sort(flat)[-keep_count(SIZE, 0.9)]
    for name, mask in model.masks.items():
        assert np.array_equal(mask, scores[name] >= threshold)
    assert [record["batch"] for record in pruner.history] == [-1]
    assert pruner.sparsity == pytest.approx(0.9, abs=1 / SIZE)


# AC/DC


def test_acdc_takes_turns():
    method = sc.ACDC(0.8, cycles=3, begin=10, end=90)
    _, pruner, watch = run(method, watch=Seen(method))
    assert [step for step, *_ in watch.updates] == [10, 30, 50, 70, 90]
    found = [record["sparsity"] for record in pruner.history]
    assert found == pytest.approx([0.8, 0, 0.8, 0, 0.8], abs=1 / SIZE)
    for i, (_, _, after, weights, _) in enumerate(watch.updates):
        if i % 2:
            assert all(mask.all() for mask in after.values())
            continue
        flat = np.concatenate([np.abs(weights[name]).ravel() for name in after])
        threshold = np.sort(flat)[-keep_count(SIZE, 0.8)]
        for name, mask in after.items():
            assert np.array_equal(mask, np.abs(weights[name]) >= threshold)


def test_acdc_lifts_the_masks_that_the_model_had():
    model = mlp()
    sc.prune(model, 0.5, inplace=True)
    method = sc.ACDC(0.8)
    model, pruner, _ = run(method, model=model)
    assert pruner.history[0] == {"batch": -1, "epoch": 0, "sparsity": 0.0}
    assert pruner.sparsity == pytest.approx(0.8, abs=1 / SIZE)


# DNS


class Surgery(nn.Callback):
    """Dynamic Network Surgery by the book, for SGD without momentum: all weights, and masks beside them."""

    def __init__(self, method, rate):
        self.method, self.rate, self.splices = method, rate, 0

    def on_epoch_begin(self, state):
        if not hasattr(self, "w"):
            params = state.model.parameters()
            self.w = {name: params[name].copy() for name in state.model.prunable()}
            self.held = {name: np.ones(w.shape, bool) for name, w in self.w.items()}

    def on_batch_end(self, state):
        params, grads = state.model.parameters(), state.model.gradients()
        for name, w in self.w.items():
            w -= np.float32(self.rate) * grads[name]
        step = state.batch + 1
        if self.method.due(step):
            scores = {n: np.abs(w) * np.where(self.held[n], np.float32(1.2), 1) for n, w in self.w.items()}
            flat = np.concatenate([s.ravel() for s in scores.values()])
            threshold = np.sort(flat)[-keep_count(SIZE, self.method.wanted(step))]
            new = {name: s >= threshold for name, s in scores.items()}
            self.splices += sum(int((new[n] & ~held).sum()) for n, held in self.held.items())
            self.held = new
        for name, w in self.w.items():
            np.testing.assert_allclose(params[name], w * self.held[name], rtol=1e-5, atol=1e-7)
            if name in state.model.masks:
                assert np.array_equal(state.model.masks[name], self.held[name])


def test_dns_is_the_papers():
    method = sc.DNS(0.8, every=4, begin=10, end=60, until=90)
    surgery = Surgery(method, 0.1)
    _, pruner, _ = run(method, optimizer=nn.SGD(0.1), watch=surgery)
    assert surgery.splices > 5
    assert [r["batch"] + 1 for r in pruner.history] == [*range(14, 60, 4), 60, *range(64, 91, 4)]


# All of them


@pytest.mark.parametrize("name", METHODS)
def test_resuming_equals_the_uninterrupted_run(name, tmp_path):
    x, y = blobs()
    arguments = {"epochs": 8, "random_state": 0, "progress": False}
    for epoch in (0, 4):
        whole, first = mlp(), mlp()
        straight = sc.DynamicPruner(METHODS[name]())
        whole.fit(x, y, callbacks=[straight], **arguments)
        keep = Keep(epoch)
        first.fit(x, y, callbacks=[sc.DynamicPruner(METHODS[name]()), keep], **arguments)
        sc.save(keep.checkpoint, tmp_path / "c.safetensors")
        second, resumed = mlp(seed=5), sc.DynamicPruner(METHODS[name]())
        checkpoint = sc.load(tmp_path / "c.safetensors")
        second.fit(x, y, callbacks=[resumed, nn.Callback()], resume=checkpoint, **arguments)
        assert same(state(second), state(whole))
        assert resumed.history == straight.history


@pytest.mark.parametrize("name", METHODS)
def test_a_pruner_begins_anew_with_every_training(name):
    x, y = blobs()
    pruner = sc.DynamicPruner(METHODS[name]())
    models = [mlp(), mlp()]
    for model in models:
        model.fit(x, y, epochs=3, callbacks=[pruner], random_state=0, progress=False)
    assert same(state(models[0]), state(models[1]))


def test_masks_are_only_put_on_when_nobody_refuses():
    x, y = blobs()
    model = mlp()
    before = state(model)
    with pytest.raises(ValueError, match="monitor"):
        model.fit(
            x, y, callbacks=[sc.DynamicPruner(sc.SET(0.5)), nn.EarlyStopping("val_loss")], progress=False
        )
    assert same(state(model), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sc.SET(0.5, drop=0), r"drop: expected a number in \(0, 1\], got 0"),
        (lambda: sc.RigL(0.5, drop=1.5), r"drop: expected a number in \(0, 1\], got 1.5"),
        (lambda: sc.RigL(0.5, scope="lamp"), "scope: expected erk, layer or global"),
        (lambda: sc.RigL(0.5, granularity="neuron"), "granularity: RigL takes single weights, blocks"),
        (lambda: sc.RigL(0.5, end=2.0), "end: expected a number of batches or a share"),
        (lambda: sc.DNS(0.5, granularity="neuron"), "granularity: DNS takes"),
        (lambda: sc.DNS(0.5, margin=-1), r"margin: expected a number in \[0, 1\]"),
        (lambda: sc.DNS(0.5, until="x"), "until: expected a number of batches"),
        (lambda: sc.ACDC(0.5, cycles=0), "cycles: expected a positive integer"),
        (lambda: sc.ACDC(0.5, granularity="neuron"), "granularity: ACDC takes"),
        (lambda: sc.SNIP(0.5, samples=0), "samples: expected a positive integer, got 0"),
        (lambda: sc.SparseDynamic(0.5, rate=2), r"rate: expected a number in \(0, 1\], got 2"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: sc.ACDC(0.5, cycles=9), "cycles: 7 batches between begin and end are too few for 9"),
        (lambda: sc.DNS(0.5, end=50), "end: expected begin <= end <= 10 batches, got 1 and 50"),
        (lambda: sc.RigL(0.9, granularity="2:4"), "sparsity: the pattern 2:4 has sparsity 0.5"),
    ],
)
def test_what_does_not_fit_the_training_is_refused_before_it(method, message):
    x, y = blobs()
    model = mlp()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, callbacks=[sc.DynamicPruner(method())], progress=False)
    assert same(state(model), before)
