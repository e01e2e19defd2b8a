"""Programs that fit and do not, and slices that cannot be compiled for."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from synthjax.plan import cost, topology
from synthjax.plan.work import Collective, Work


@pytest.mark.parametrize(
    "text,gibibytes",
    [
        ("Ran out of memory in memory space hbm. Used 28.5G of 15.75G hbm. Exceeded", 28.5),
        (
            "CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (54.00G) exceeds available HBM (15.75G).",
            54,
        ),
        ("INTERNAL: something else", 0),
    ],
)
def test_what_does_not_fit_says_what_it_needs(text, gibibytes):
    assert cost._needed(text) == gibibytes * 2**30


def test_a_program_here():
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    program = cost.Program("product", lambda: jax.jit(jnp.matmul).lower(x, x), {"rows": 64}, 1.0)
    found = cost.cost(program, jax.devices("cpu")[0], 1)
    assert found.work.flops == 2 * 64**3
    assert found.arguments == 2 * 64 * 64 * 4 and found.outputs == 64 * 64 * 4
    assert found.fits and found.predicted is None and found.utilisation is None  # nobody says


def test_a_step_of_known_times():
    work = Work(197e12, 0, 2 * 819e9, (Collective("all-reduce", 4, 100e9, 2),))
    about = dict(arguments=0, temporaries=0, outputs=0, code=0, limit=2**34, needed=0, seconds=0)
    found = cost.Cost("step", "TPU v5 lite", 4, {}, 4 * 197e12, **about, work=work)
    assert found.times == {"products": 1, "vector": 0, "memory": 2, "collectives": 3}
    assert found.predicted == (3, 6)
    assert found.utilisation == pytest.approx((1 / 3, 1 / 6))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_no_libtpu():
    with pytest.raises(topology.TopologyError, match="needs libtpu"):
        topology.devices("v5e:4x4")
