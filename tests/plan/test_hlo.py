"""Counts from HLO against what the shapes say."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from synthjax.plan import hlo


def of(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return hlo.work(jax.jit(function).lower(*arrays).compile().as_text())


@pytest.mark.parametrize(
    "product,left,right,flops",
    [
        ("mk,kn->mn", (64, 48), (48, 80), 2 * 64 * 48 * 80),
        ("bmk,bkn->bmn", (5, 64, 48), (5, 48, 80), 2 * 5 * 64 * 48 * 80),
        ("bqhd,bkhd->bhqk", (3, 16, 4, 8), (3, 24, 4, 8), 2 * 3 * 4 * 16 * 24 * 8),
        ("abk,kac->bc", (4, 32, 16), (16, 4, 24), 2 * 32 * 24 * 4 * 16),
    ],
)
def test_products(product, left, right, flops):
    assert of(lambda a, b: jnp.einsum(product, a, b), left, right).flops == flops


def scanned(layers):
    def run(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights, length=layers)[0]

    return run


def unrolled(weights, x):
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


def test_a_scan_counts_as_often_as_it_runs():
    found = of(scanned(7), (7, 48, 48), (64, 48))
    assert found.flops == 7 * 2 * 64 * 48 * 48 == of(unrolled, (7, 48, 48), (64, 48)).flops
    assert not found.unknown and not found.bounded


def test_scans_within_scans():
    def run(w, x):
        inner = lambda x, _: (jnp.tanh(x @ w), None)  # noqa: E731
        outer = lambda x, _: (jax.lax.scan(inner, x, None, length=3)[0] + 1, None)  # noqa: E731
        return jax.lax.scan(outer, x, None, length=5)[0]

    assert of(run, (48, 48), (64, 48)).flops == 15 * 2 * 64 * 48 * 48


def test_the_gradient_of_a_scan_is_three_times_its_work():
    loss = lambda weights, x: scanned(7)(weights, x).sum()  # noqa: E731
    found = of(jax.grad(loss, argnums=(0, 1)), (7, 48, 48), (64, 48))
    assert found.flops == 3 * 7 * 2 * 64 * 48 * 48


def test_a_loop_of_unknown_length_is_named():
    def run(x, y):
        return jax.lax.while_loop(lambda x: x.sum() < y.sum(), lambda x: x @ x + 1, x)

    found = of(run, (48, 48), (48, 48))
    assert len(found.unknown) == 1
    assert found.flops == 2 * 48**3  # counted once


def test_the_dearest_branch_counts():
    def run(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert of(run, (48, 48)).flops == 2 * 2 * 48**3


def test_a_piece_costs_what_the_piece_has():
    def run(table, start):
        at = start.sum().astype(int)
        return jax.lax.dynamic_slice(table, (at, 0), (8, 64))

    assert of(run, (4096, 64), (2,)).nbytes < 4096 * 64 * 4 / 10


def test_what_is_no_hlo_is_refused():
    with pytest.raises(ValueError, match="no HLO"):
        hlo.work("HloModule nothing")


ON_EIGHT = """
import functools, json, jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from synthjax.plan import hlo
mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
lax = jax.lax
calls = {
    "psum": lambda x: lax.psum(x, "b"),
    "gather": lambda x: lax.all_gather(x, "b", tiled=True),
    "scatter": lambda x: lax.psum_scatter(x, "b", tiled=True),
    "permute": lambda x: lax.ppermute(x, "b", [(i, (i + 1) % 4) for i in range(4)]),
    "looped": lambda x: lax.scan(lambda x, _: (lax.psum(x, "a") * 0.5, None), x, length=6)[0],
}
found = {}
for name, call in calls.items():
    spread = jax.shard_map(call, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    x = jax.ShapeDtypeStruct((64, 16), jnp.float32)
    work = hlo.work(jax.jit(spread).lower(x).compile().as_text())
    found[name] = [[c.kind, c.group, c.nbytes, c.count] for c in work.collectives]
print(json.dumps(found))
"""


def test_collectives_on_eight_devices():
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", ON_EIGHT]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert not ran.returncode, ran.stderr
    size = 64 * 16 * 4
    assert json.loads(ran.stdout) == {
        "psum": [["all-reduce", 4, size, 1]],
        "gather": [["all-gather", 4, 4 * size, 1]],
        "scatter": [["reduce-scatter", 4, size, 1]],
        "permute": [["collective-permute", 2, size, 1]],
        "looped": [["all-reduce", 2, size, 6]],
    }
