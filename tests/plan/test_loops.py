"""Loops of compiled programs count as often as they run."""

import jax
import jax.numpy as jnp
from plan.compiled import work_of


def scanned(layers):
    def run(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights, length=layers)[0]

    return run


def unrolled(weights, x):
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


def test_a_scan_counts_as_often_as_it_runs():
    found = work_of(scanned(7), (7, 48, 48), (64, 48))
    assert found.flops == 7 * 2 * 64 * 48 * 48 == work_of(unrolled, (7, 48, 48), (64, 48)).flops
    assert not found.unknown and not found.bounded


def test_scans_within_scans():
    def run(w, x):
        inner = lambda x, _: (jnp.tanh(x @ w), None)  # noqa: E731
        outer = lambda x, _: (jax.lax.scan(inner, x, None, length=3)[0] + 1, None)  # noqa: E731
        return jax.lax.scan(outer, x, None, length=5)[0]

    assert work_of(run, (48, 48), (64, 48)).flops == 15 * 2 * 64 * 48 * 48


def test_the_gradient_of_a_scan_is_three_times_its_work():
    loss = lambda weights, x: scanned(7)(weights, x).sum()  # noqa: E731
    found = work_of(jax.grad(loss, argnums=(0, 1)), (7, 48, 48), (64, 48))
    assert found.flops == 3 * 7 * 2 * 64 * 48 * 48


def test_a_loop_of_unknown_length_is_named():
    def run(x, y):
        return jax.lax.while_loop(lambda x: x.sum() < y.sum(), lambda x: x @ x + 1, x)

    found = work_of(run, (48, 48), (48, 48))
    assert len(found.unknown) == 1
    assert found.flops == 2 * 48**3  # counted once
