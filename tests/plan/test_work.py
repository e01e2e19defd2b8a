"""Counts from HLO against what the shapes say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from plan.compiled import work_of

from synthjax.plan.work import Collective, work

TPU = Path(__file__).parent / "tpu"


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
    assert work_of(lambda a, b: jnp.einsum(product, a, b), left, right).flops == flops


def test_the_dearest_branch_counts():
    def run(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert work_of(run, (48, 48)).flops == 2 * 2 * 48**3


def test_a_piece_costs_what_the_piece_has():
    def run(table, start):
        at = start.sum().astype(int)
        return jax.lax.dynamic_slice(table, (at, 0), (8, 64))

    assert work_of(run, (4096, 64), (2,)).nbytes < 4096 * 64 * 4 / 10


ON_EIGHT = """
import functools, json, jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from synthjax.plan.work import work
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
    done = work(jax.jit(spread).lower(x).compile().as_text())
    found[name] = [[c.kind, c.group, c.nbytes, c.count] for c in done.collectives]
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


# As tests/plan/tpu/make.py makes them, on eight devices.
LAYERS, WIDTH, ROWS = 6, 1024, 512
PRODUCTS = 3 * LAYERS * 2 * (ROWS // 8) * WIDTH * WIDTH
MATRIX = 2 * WIDTH * WIDTH  # bytes
SMALL = 2 * 64 * 128


@pytest.mark.parametrize(
    "name,flops,collectives",
    [
        # The gradient of each layer is added up over all.
        ("scanned", PRODUCTS, {("all-reduce", 8): (LAYERS, LAYERS * MATRIX)}),
        # So too, and each layer is gathered forward and backward.
        (
            "sharded",
            PRODUCTS,
            {
                ("all-gather", 8): (2 * LAYERS, 2 * LAYERS * MATRIX),
                ("all-reduce", 8): (LAYERS, LAYERS * MATRIX),
            },
        ),
        ("attention", 2 * 4 * 128 * 128 * 64, {}),
        ("psum", 0, {("all-reduce", 8): (1, SMALL)}),
        ("gather", 0, {("all-gather", 8): (1, 8 * SMALL)}),
        ("scatter", 0, {("all-reduce", 8): (1, SMALL)}),  # so small that XLA slices the sum
    ],
)
def test_what_tpus_run(name, flops, collectives):
    found = work((TPU / f"{name}.txt").read_text())
    assert found.flops == flops
    totals = {}
    for one in found.collectives:
        count, size = totals.get((one.kind, one.group), (0, 0))
        totals[one.kind, one.group] = count + one.count, size + one.count * one.nbytes
    assert totals == collectives
    assert not found.unknown and not found.bounded and not found.opaque


GATHERED = """HloModule m

ENTRY %main (x: f32[8,4]) -> f32[64,4] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %g = f32[64,4]{1,0} all-gather(%x), replica_groups=GROUPS, dimensions={0}
}
"""


@pytest.mark.parametrize(
    "groups",
    [
        "{{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}",
        "[2,8]<=[16]",
        "[2,8]<=[8,2]T(1,0)",
        "mesh['axis_0'=2,'axis_1'=8] {'axis_1'}",
        "mesh['axis_0'=2,'axis_1'=2,'axis_2'=4] {'axis_1','axis_2'}",
        # Of devices in another order than their numbers', as on a torus of 4 x 4 x 4.
        "mesh['axis_0'=1,'axis_1'=8,'axis_2'=8], device_ids=([8,8]T(1,0)) {'axis_1'}",
    ],
)
def test_ways_in_which_groups_are_written(groups):
    (found,) = work(GATHERED.replace("GROUPS", groups)).collectives
    assert (found.kind, found.group, found.nbytes) == ("all-gather", 8, 64 * 4 * 4)


def test_groups_written_otherwise_are_not_guessed():
    with pytest.raises(ValueError, match="no group of devices is known"):
        work(GATHERED.replace("GROUPS", "{}"))


SCATTERED = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (x: f32[400,64]) -> f32[400,16] {
  %x = f32[400,64]{1,0:T(8,128)S(1)} parameter(0)
  %r = f32[400,64]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = u32[] constant(0)
  ROOT %s = f32[400,16]{1,0:T(8,128)} dynamic-slice(%r, %zero, %zero), dynamic_slice_sizes={400,16}
}

ENTRY %main (x: f32[400,64]) -> f32[400,16] {
  %x.1 = f32[400,64]{1,0:T(8,128)} parameter(0)
  ROOT %f = f32[400,16]{1,0:T(8,128)} fusion(%x.1), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_a_sum_of_which_each_keeps_a_part():
    (one,) = work(SCATTERED).collectives
    assert one == Collective("reduce-scatter", 4, 400 * 64 * 4, 1)


def test_bytes_are_those_of_memory():
    # Read forward, read backward, and the gradient's pieces written; what is near costs nothing.
    found = work((TPU / "scanned.txt").read_text())
    assert 3 * LAYERS * MATRIX <= found.nbytes < 3.02 * LAYERS * MATRIX
    # Both operands, of which one is fetched beforehand, and the result.
    found = work((TPU / "attention.txt").read_text())
    assert found.nbytes == 2 * (2 * 128 * 4 * 64) + 2 * 4 * 128 * 128
