"""A sweep in blocks: every point in one of them, and merged what the whole run gives."""

import itertools
import math
import zlib

import numpy as np
import pytest
import xarray as xr

from synthjax import eigen, mixture, summarize
from synthjax.protocol.elements import elements
from synthjax.protocol.split import blocks, cut, merge

ETA = (0.1, 0.2, 0.3, 0.4, 0.5)


@pytest.mark.parametrize("count, largest", [(1, 60), (2, 30), (3, 20), (7, 10), (12, 5), (60, 1)])
def test_largest_block(count, largest):
    """Against every way to cut three axes, one by one."""
    spec = mixture.Spec(sweep={"n": (10, 20, 30), "d": (5, 6, 7, 8), "theta_gen": ETA})
    cuts = cut(spec, count)
    assert {name: sum(parts, ()) for name, parts in cuts.items()} == spec.sweep
    sizes = [math.prod(map(len, parts)) for parts in itertools.product(*cuts.values())]
    assert len(sizes) <= count and max(sizes) == largest and sum(sizes) == 60
    ways = itertools.product(range(1, 4), range(1, 5), range(1, 6))
    able = [way for way in ways if math.prod(way) <= count]
    assert largest == min(
        math.ceil(3 / a) * math.ceil(4 / b) * math.ceil(5 / c) for a, b, c in able
    )


def test_earlier_axes_are_cut_first():
    """So that a first generator is trained in as few blocks as can be."""
    spec = eigen.Spec(verifier="noisy", sweep={"n_real": (64, 128), "psi": (0.0, 1.0)})
    assert cut(spec, 2) == {"n_real": [(64,), (128,)], "psi": [(0.0, 1.0)]}


def test_blocks_hold_the_points_of_the_whole():
    spec = eigen.Spec(
        k=4,
        phi=0.9,
        sweep={"verifier": ("none", "noisy", "oracle"), "psi": (0.0, 0.5), "n": (10, 20)},
    )
    cuts = cut(spec, 12)
    parts = blocks(spec, cuts, eigen.spec.reads)
    whole = elements(spec, eigen.spec.reads)
    assert len(parts) == len(whole) == 12
    for block, point in zip(parts, whole, strict=True):
        assert elements(block, eigen.spec.reads) == [point]
    # What only the noisy verifier reads is no axis of the others, whose blocks are alike.
    assert [set(block.sweep) for block in parts[:2]] == [{"verifier", "n"}] * 2
    assert parts[0] == parts[1] != parts[6] and parts[2] != parts[3]


@pytest.mark.slow
def test_merged_is_the_whole(no_theory):
    """To rounding, for a tile's company matters to it; labels and attributes to the letter."""
    spec = mixture.Spec(
        d=4,
        generations=2,
        trajectories=3,
        generator="flip",
        p=0.2,
        phi=0.9,
        learner="ridge",
        sweep={
            "verifier": ("none", "noisy"),  # which does not read psi
            "psi": (0.3, 0.1),
            "n": (30, 40),
        },
    )
    whole = mixture.run(spec)
    cuts = cut(spec, 5)
    found = [mixture.run(block) for block in blocks(spec, cuts, mixture.spec.reads)]
    merged = merge(spec, cuts, found)
    xr.testing.assert_allclose(merged, whole, rtol=1e-5, atol=1e-6)
    xr.testing.assert_identical(xr.zeros_like(merged), xr.zeros_like(whole))
    assert np.isfinite(merged.accuracy).all() and merged.p_star.missing == "left out"

    for one, reasons in zip(found, ("a", "b; a", "c", ""), strict=True):
        one.p_star.attrs = {**one.p_star.attrs, "missing": reasons}
    assert merge(spec, cuts, found).p_star.missing == "a; b; c"


@pytest.mark.parametrize(
    "task, dataset, verifiers, rate",
    [
        (eigen, eigen.dataset, ("none", "oracle", "noisy"), "psi"),
        (summarize, summarize.dataset, ("random", "oracle", "self"), "rate"),
    ],
)
def test_merged_records_are_those_of_the_whole(task, dataset, verifiers, rate):
    """To the bit, for every element of such a task is run by itself."""
    axes = {"verifier": verifiers, rate: (0.5, 0.25), "n": (100, 200, 300)}
    spec = task.Spec(generations=1, sweep=axes, **({"selection": "top"} if rate == "rate" else {}))
    empty = dataset.to_dataset(spec, [[{"status": 0}] * 2] * 18)

    def results(spec):
        found = []
        for point in elements(spec, task.spec.reads):
            draw = np.random.default_rng(zlib.crc32(repr(point).encode()))
            found.append(
                [
                    {
                        name: draw.random(variable.shape[1 + len(axes) :]).round(2)
                        for name, variable in empty.data_vars.items()
                    }
                    for _ in range(2)
                ]
            )
        return dataset.to_dataset(spec, found)

    for count in (2, 6, 18):
        cuts = cut(spec, count)
        merged = merge(spec, cuts, [*map(results, blocks(spec, cuts, task.spec.reads))])
        xr.testing.assert_identical(merged, results(spec))
