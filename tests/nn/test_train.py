"""Training: a step against what it should be made of, and that a model learns at all."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from synthjax.eigen.data import Matrices, lengths, source_ids, target_ids
from synthjax.eigen.tokens import BOS, ENCODINGS, EOS, PAD
from synthjax.nn import decode, seq2seq, train
from synthjax.nn.seq2seq import Batch
from synthjax.nn.train import Schedule
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.training_set import Group, groups

SMALL = seq2seq.Architecture(11, 7, 6, width=16, heads=2, encoder_layers=1, decoder_layers=1)
PARAMS = jax.jit(seq2seq.build(SMALL).init)(jax.random.key(0))
SCHEDULE = Schedule(steps=10, warmup=2, learning_rate=0.01)


def batch_of(seed=0, rows=8):
    rng = np.random.default_rng(seed)
    source, target = rng.integers(3, 11, (rows, 7)), rng.integers(3, 11, (rows, 6))
    target[:, 0] = BOS
    for row, end in enumerate(rng.integers(2, 6, rows)):  # of different lengths
        target[row, end], target[row, end + 1 :] = EOS, PAD
    return Batch(jnp.asarray(source), jnp.asarray(target))


def trainer_of(**changes):
    return train.trainer(
        seq2seq.loss(seq2seq.build(SMALL), PAD), dataclasses.replace(SCHEDULE, **changes)
    )


def run(trainer, batches, params=PARAMS, sizes=None):
    """The last state and every step's metrics; `sizes`: how many steps are taken together, 4."""
    some = groups(iter(batches), sizes or itertools.repeat(4))
    found = list(train.steps(trainer, trainer.begin(params), some))
    return found[-1][0], [step for _, some in found for step in some]


def assert_close(a, b, **how):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **how)


def assert_same_model(a, b):
    """By what they compute: softmax cancels the biases of keys, which rounding alone moves."""
    model, batch = seq2seq.build(SMALL), batch_of(99)
    logits = jax.jit(lambda params: model.apply(params, "logits", *batch))
    found, expected = map(logits, (a, b))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_step_is_adamw_on_the_mean_loss_of_the_tokens():
    """Written out: cross-entropy by hand, clipping, Adam's first step, decay of matrices alone."""
    trainer, batch = trainer_of(warmup=0, clip=0.1, weight_decay=0.3), batch_of()
    model, begun = seq2seq.build(SMALL), trainer.begin(PARAMS)
    params = jax.tree.map(jnp.copy, begun.params)

    def loss(params):
        logits = model.apply(params, "logits", batch.source, batch.target[:, :-1])
        labels = np.asarray(batch.target)[:, 1:]
        row, t = np.nonzero(labels != PAD)
        terms = logits[row, t, labels[row, t]] - jax.nn.logsumexp(logits[row, t], -1)
        return -sum(terms) / len(terms), len(terms)

    (value, count), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    norm = float(optax.tree.norm(gradient))
    state, metrics = trainer.step(begun, batch)
    assert metrics.loss == pytest.approx(float(value), rel=1e-5)
    assert metrics.gradient == pytest.approx(norm, rel=1e-4) and norm > 0.1
    assert (int(metrics.tokens), int(metrics.skipped)) == (count, 0)
    for before, slope, after in zip(
        *(map(np.asarray, jax.tree.leaves(tree)) for tree in (params, gradient, state.params)),
        strict=True,
    ):
        slope = slope * 0.1 / norm
        expected = before - 0.01 * (
            slope / (np.abs(slope) + 1e-8) + 0.3 * before * (before.ndim > 1)
        )
        sure = np.abs(slope) > 1e-6  # Adam's first step is a sign: rounding decides where it is 0
        np.testing.assert_allclose(after[sure], expected[sure], atol=2e-4)


def test_moments_are_those_of_optax_with_its_own_clip():
    """Adam's first step does not tell how large a gradient was; its moments do, clipped or not."""
    model, batches = seq2seq.build(SMALL), [batch_of(seed) for seed in range(6)]
    loss = seq2seq.loss(model, PAD)

    @jax.jit
    def mean_gradient(params, batch):
        def mean(params):
            return loss.summed(params, batch, None) / loss.tokens(batch)

        return jax.grad(mean)(params)

    norms = [float(optax.tree.norm(mean_gradient(PARAMS, batch))) for batch in batches]
    clip = float(np.median(norms))  # of steps too small to move the parameters
    trainer = trainer_of(learning_rate=1e-9, clip=clip)
    reference = optax.chain(optax.clip_by_global_norm(clip), optax.adamw(1e-9, b2=SCHEDULE.b2))
    state, moments = trainer.begin(PARAMS), reference.init(PARAMS)
    for batch, norm in zip(batches, norms, strict=True):
        _, moments = reference.update(mean_gradient(PARAMS, batch), moments, PARAMS)
        state, metrics = trainer.step(state, batch)
        assert metrics.gradient == pytest.approx(norm, rel=1e-4)
        found, expected = state.optimizer[0], moments[1][0]
        assert_close(found.mu, expected.mu, rtol=1e-3, atol=1e-7)
        assert_close(found.nu, expected.nu, rtol=2e-3, atol=1e-10)
    assert min(norms) < clip < max(norms)


def test_learning_rate():
    """Linear to its height, then a cosine to a tenth of it."""
    rate = train.rate(Schedule(steps=100, warmup=20, learning_rate=1.0))
    t = np.arange(101)
    fall = 0.1 + 0.9 * (1 + np.cos(np.pi * (t - 20) / 80)) / 2
    np.testing.assert_allclose([rate(i) for i in t], np.where(t < 20, t / 20, fall), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, pytest.param(8, marks=pytest.mark.long)])
def test_accumulation_is_the_whole_batch(accumulate):
    """Exactly the mean over all tokens, though the parts have different numbers of them."""
    batches = [batch_of(seed) for seed in range(3)]
    (whole, a), (parts, b) = (run(trainer_of(accumulate=n), batches) for n in (1, accumulate))
    assert_close([m.loss for m in b], [m.loss for m in a], rtol=1e-5)
    assert_same_model(parts.params, whole.params)


@pytest.mark.long
def test_a_batch_over_several_devices_is_the_whole_batch():
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("one device")
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("data",), axis_types=auto, devices=devices[:2])
    rows, everywhere = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (("data",), ())
    )
    trainer = trainer_of(accumulate=2)
    batches = [batch_of(seed) for seed in range(3)]
    expected, metrics = run(trainer, batches)
    state, found = jax.device_put(trainer.begin(PARAMS), everywhere), []
    for batch in batches:
        state, one = trainer.step(state, jax.device_put(batch, rows))
        found.append(one)
    assert_close([m.loss for m in found], [m.loss for m in metrics], rtol=1e-5)
    assert_same_model(state.params, expected.params)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    """With a model that overflows on one source."""
    model = seq2seq.build(SMALL)

    def apply(params, method, source, target):
        return model.apply(params, method, source, target) / (source[0, 0] != 10)

    trainer = train.trainer(
        seq2seq.loss(model._replace(apply=apply), PAD), dataclasses.replace(SCHEDULE, average=0.9)
    )
    good = [
        batch._replace(source=batch.source.at[0, 0].set(3)) for batch in map(batch_of, range(2))
    ]
    bad = good[1]._replace(source=good[1].source.at[0, 0].set(10))
    state, _ = trainer.step(trainer.begin(PARAMS), good[0])
    kept = jax.tree.map(np.array, state)
    state, metrics = trainer.step(state, bad)
    assert (int(metrics.skipped), int(state.step)) == (1, 2) and not np.isfinite(metrics.gradient)
    assert_close(state.params, kept.params, rtol=0)
    assert_close(state.average, kept.average, rtol=1e-6)
    assert_close(state.optimizer, kept.optimizer, rtol=0)
    state, metrics = trainer.step(state, good[1])
    assert (int(metrics.skipped), int(state.step)) == (1, 3) and np.isfinite(metrics.loss)
    # As if the bad step had not been: the second that counts.
    assert metrics.learning_rate == pytest.approx(float(train.rate(SCHEDULE)(1)))
    again, _ = run(trainer, good)
    assert_same_model(state.params, again.params)


def test_the_moving_average():
    trainer = trainer_of(average=0.75)
    state = trainer.begin(PARAMS)
    expected = jax.tree.map(np.array, state.params)
    for seed in range(3):
        state, _ = trainer.step(state, batch_of(seed))
        expected = jax.tree.map(
            lambda a, p: 0.75 * a + 0.25 * np.asarray(p), expected, state.params
        )
    assert_close(state.average, expected, atol=1e-6)


def test_several_steps_in_one_program_are_the_same_steps_to_the_bit():
    """However they are shared out; and what `step` does alone, up to rounding."""
    trainer, batches = trainer_of(average=0.5), [batch_of(seed) for seed in range(9)]
    state, metrics = run(trainer, batches)
    assert len(metrics) == 9 and int(state.step) == 9
    for sizes in ([1] * 9, [2, 4, 1, 2]):
        again, steps = run(trainer, batches, sizes=sizes)
        jax.tree.map(np.testing.assert_array_equal, (again, steps), (state, metrics))
    alone, losses = trainer.begin(PARAMS), []
    for batch in batches:
        alone, one = trainer.step(alone, batch)
        losses.append(one.loss)
    assert_close(losses, [step.loss for step in metrics], rtol=1e-5)
    assert_same_model(alone.params, state.params)
    assert_same_model(alone.average, state.average)


def test_metrics_come_one_group_late():
    trainer = trainer_of()
    some = groups(iter(map(batch_of, range(5))), itertools.repeat(2))
    seen = list(train.steps(trainer, trainer.begin(PARAMS), some))
    assert [len(metrics) for _, metrics in seen] == [0, 2, 2, 1]
    assert seen[-1][1][0].tokens.shape == ()


@pytest.mark.slow
@pytest.mark.long
def test_overfits_64_examples_to_exact_decoding():
    """Matrices of 2 × 2: after some 600 steps every answer is decoded token for token."""
    encoding = ENCODINGS["P1000"](-8, 4)
    examples = Matrices(sizes=(2,)).draw(key(0, Stream.REAL, 0, 0), np.arange(64))
    batch = Batch(
        jnp.asarray(source_ids(examples, encoding)),
        jnp.asarray(target_ids(examples.values, examples.sizes, encoding)),
    )
    source, target = lengths(2, encoding)
    architecture = seq2seq.Architecture(
        len(encoding.symbols), source, target, width=64, heads=4, encoder_layers=2
    )
    model = seq2seq.build(architecture)
    trainer = train.trainer(
        seq2seq.loss(model, PAD), Schedule(steps=700, learning_rate=3e-3, warmup=50)
    )
    state, metrics = run(trainer, [batch] * 700, params=model.init(jax.random.key(0)))
    assert metrics[-1].loss < 0.02
    symbols = decode.Symbols(PAD, BOS, EOS)
    found = jax.jit(lambda p: decode.beam_search(model, p, batch.source, 1, symbols, target - 1))(
        state.params
    )
    np.testing.assert_array_equal(found.tokens[:, 0], batch.target[:, 1:])


def test_two_groups_at_most_are_under_way():
    """When a group's state comes out, the one before is waited for, and it itself is not."""

    class Waited:
        def __init__(self, number):
            self.number = number

        def __array__(self, *_, **__):
            waited.append(self.number)
            return np.array([self.number])

    waited = []

    def several(state, batches, count, fixed):
        return state + 1, train.Metrics(*[Waited(batches)] * 5)

    trainer = train.Trainer(None, None, several)
    some = (Group(number, 1) for number in range(5))
    for i, (state, before) in enumerate(train.steps(trainer, 0, some)):
        assert state == min(i + 1, 5)
        assert sorted({*waited}) == list(range(i))
        assert [step.loss for step in before] == ([i - 1] if i else [])
