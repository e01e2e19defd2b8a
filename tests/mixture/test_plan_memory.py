import dataclasses

import jax
import pytest

from configs import mixture as variants
from synthjax.mixture import Spec, plan, sweep

L2 = {"l2": (0.1, 0.2, 0.3, 0.4)}
SIGNAL = {"signal": (0.5, 1.0, 2.0)}
DECAY = {"covariance_decay": (0.5, 1.0, 1.5, 2.0)}
REAL = {"initial": "real", "n": 100, "d": 20, "n_real": 3000}
PAST = {"n": 500, "d": 50, "generations": 10}
BEST = {"generator": "logistic", "verifier": "linear", "selection": "best_of_k"}
MANY = 10**9  # more trajectories in a tile than any takes

# a spec, and the trajectories of a tile of all its grid points
MEASURED = {
    "logistic": (Spec(n=1000, d=20), 1),
    "logistic, 8 trajectories": (Spec(n=4000, d=100), 8),
    "logistic, 4 points": (Spec(n=1000, d=20, sweep=L2), 2),
    "logistic, d > n": (Spec(n=100, d=300), 2),
    "logistic, d ≫ n": (Spec(n=10, d=3000), 1),
    "logistic, d ≫ n, 4 points": (Spec(n=10, d=3000, sweep=L2), 1),
    "ridge": (Spec(n=4000, d=100, learner="ridge"), 1),
    "ridge, d = n, 4 points": (Spec(n=200, d=200, learner="ridge", sweep=L2), 2),
    "ridge, d > n": (Spec(n=100, d=300, learner="ridge"), 2),
    "n swept": (Spec(d=20, sweep={"n": (600, 700, 900, 1000)}), 2),
    "real": (Spec(**REAL), 2),
    "real, 4 points": (Spec(**REAL, sweep=L2), 1),
    "signal swept": (Spec(features="mixture", d=20, sweep=SIGNAL), 2),
    "diagonal, 4 points": (Spec(n=1000, d=100, covariance="diagonal", sweep=L2), 2),
    "diagonal, decay swept": (Spec(n=1000, d=20, covariance="diagonal", sweep=DECAY), 2),
    "dense, d > n": (Spec(n=100, d=500, covariance="dense"), 2),
    "dense, real, 4 points": (Spec(**REAL, covariance="dense", sweep=L2), 1),
    "dense, decay swept": (Spec(n=1000, d=50, covariance="dense", sweep=DECAY), 2),
    "dense, d > n, decay swept": (Spec(n=100, d=300, covariance="dense", sweep=DECAY), 2),
    "accumulate": (Spec(**PAST, regime="accumulate"), 2),
    "accumulate, 4 points": (Spec(**PAST, regime="accumulate", sweep=L2), 1),
    "accumulate, ridge": (Spec(**PAST, regime="accumulate", learner="ridge"), 8),
    "accumulate, dense, signal swept": (
        Spec(**PAST, regime="accumulate", covariance="dense", features="mixture", sweep=SIGNAL),
        2,
    ),
    "subsample": (Spec(**PAST, regime="subsample"), 2),
    "subsample, 4 points": (Spec(**PAST, regime="subsample", sweep=L2), 1),
    "subsample, real": (Spec(**PAST, regime="subsample", initial="real", n_real=3000), 2),
    "subsample, d = 3, 4 points": (
        Spec(n=1000, d=3, generations=10, regime="subsample", sweep=L2),
        1,
    ),
    "mix": (Spec(**PAST, regime="mix"), 2),
    "mix, real, 4 points": (Spec(**REAL, generations=10, regime="mix", sweep=L2), 1),
    "best of 16": (Spec(n=1000, d=20, k=16, **BEST), 2),
    "best of 200, d = 3": (Spec(n=1000, d=3, k=200, **BEST), 1),
    "best of 16, flip": (Spec(n=1000, d=20, k=16, **BEST | {"generator": "flip"}), 2),
    "margin": (Spec(n=1000, d=20, verifier="margin"), 2),
    "self": (Spec(n=1000, d=20, verifier="self", generator="logistic"), 2),
    "long": (Spec(n=10, d=3, generations=20_000, learner="ridge"), 2),
    "long, classifiers": (
        Spec(n=10, d=50, generations=5000, learner="ridge", keep_classifiers=True),
        2,
    ),
    "configs: base": (variants.VARIANTS["base"](), MANY),
    "configs: breakdown": (variants.VARIANTS["quickstart"]()["breakdown"], MANY),
    "configs: angles": (variants.VARIANTS["quickstart"]()["angles"], MANY),
    "configs: phase_diagram": (variants.VARIANTS["phase_diagram"](), MANY),
}
# The same of what goes on after some of its generations.
GOES_ON = {
    "on: logistic": (5, Spec(n=1000, d=20, generations=10), 2),
    "on: 4 points": (5, Spec(n=1000, d=20, generations=10, sweep=L2), 2),
    "on: accumulate, real": (
        5,
        Spec(**PAST, regime="accumulate", initial="real", n_real=3000, sweep=L2),
        2,
    ),
    "on: subsample": (9, Spec(**PAST, regime="subsample", sweep=L2), 1),
    "on: long": (10_000, Spec(n=10, d=3, generations=20_000, learner="ridge"), 2),
    "on: long, accumulate": (200, Spec(n=10, d=20, generations=400, regime="accumulate"), 2),
}
CASES = {name: (None, *case) for name, case in MEASURED.items()} | GOES_ON


# Every fifth; `make test-long` runs the others.
@pytest.mark.slow
@pytest.mark.parametrize(
    "done, spec, trajectories",
    [
        pytest.param(*case, id=name, marks=pytest.mark.long if i % 5 else ())
        for i, (name, case) in enumerate(CASES.items())
    ],
)
def test_the_estimate_of_memory_bounds_what_xla_takes(done, spec, trajectories):
    """Per device, as XLA's own buffer assignment counts it; and not idly far above."""
    taken, said = memory(done, spec, trajectories)
    assert taken <= said <= 6 * taken, f"{said / taken:.2f} of {taken / 2**20:.2f} MiB"


def memory(done, spec, trajectories):
    """What XLA takes for a tile, and what the estimate says."""
    devices = jax.local_devices()
    before = done and dataclasses.replace(spec, generations=done)
    groups = plan.groups(spec, before)
    chunks = [*plan.chunks(groups, plan.chunk_work(groups, "cpu", len(devices)))]
    groups, chunks, tiles = plan.layout(spec, groups, chunks, "cpu", len(devices))
    tile = tiles[0]._replace(trajectories=min(trajectories, tiles[0].trajectories))
    start = chunks[0].trajectories.start
    whole = chunks[0]._replace(trajectories=slice(start, start + tile.trajectories * tile.count))
    # Whatever its length, the arrays given to the program must hold these trajectories.
    records = sweep.dataset.empty(
        dataclasses.replace(spec, trajectories=whole.trajectories.stop), bool(done)
    )
    lowered = sweep.run_tiles.lower(*sweep.arguments(groups[0], whole, tile, devices, records))
    taken = lowered.compile().memory_analysis().temp_size_in_bytes
    return taken, plan.bytes_of(groups[0].static, groups[0].swept, tile.points) * tile.trajectories
