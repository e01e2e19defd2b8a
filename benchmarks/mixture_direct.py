"""The direct engine against the same work in NumPy + scikit-learn, interleaved in one run.

    python -m benchmarks.mixture_direct [--repeats=5]

A trajectory-generation is: draw n features in d dimensions, label them with a linear generator,
keep where a linear verifier agrees, train, measure. The peer is what a user would write: a Python
loop over trajectories, in one process of its own (the faster of BLAS with one thread and with a
thread per core), and with joblib over all cores.
Also: the share of the time that drawing the normals takes, what eight values of a swept field cost
when they share a draw, compile time, and peak memory of a process of its own.
"""

import concurrent.futures
import functools
import multiprocessing
import statistics

import jax
import jax.numpy as jnp
import joblib
import numpy as np
from absl import app, flags
from jax.sharding import Mesh, PartitionSpec

import synthjax
from benchmarks.common import Results, interleaved, peak_memory, ratio
from benchmarks.peer import (
    GENERATIONS,
    compile_seconds,
    peer_trajectories,
    peer_trajectory,
    spec,
)
from synthjax import mixture

# n, d, our trajectories, the peer's
SIZES = ((2000, 50, 400, 40), (4000, 100, 120, 20), (10_000, 200, 24, 6))

_REPEATS = flags.DEFINE_integer("repeats", 5, "Counted turns of each side.", lower_bound=1)
_SIDE = flags.DEFINE_string("side", None, "Only run SIDE:learner:n:d once (for peak memory).")


def normals_alone(n: int, d: int, count: int):
    """Draw the features of `count` generations as the engine does, and nothing else."""
    mesh = Mesh(np.array(jax.local_devices()), ("trajectory",))
    split = PartitionSpec("trajectory")

    def draw(i):
        with jax.threefry_partitionable(False):
            return jax.random.normal(jax.random.key(i, impl="threefry2x32"), (n, d)).sum()

    run = jax.jit(
        jax.shard_map(lambda i: jax.lax.map(draw, i), mesh=mesh, in_specs=split, out_specs=split)
    )
    return lambda: run(jnp.arange(count)).block_until_ready()


def measure(results: Results, learner: str, n: int, d: int, ours: int, theirs: int) -> None:
    cores = synthjax.cores()
    one = spec(learner, n, d, ours)
    eight = spec(learner, n, d, ours // 8, sweep={"error_correlation": tuple(np.arange(8) / 8)})
    peer = functools.partial(peer_trajectory, learner, n, d)
    compiled = compile_seconds(one)
    alone = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with joblib.Parallel(n_jobs=cores) as pool, alone:
        sides = {
            "synthjax": lambda: mixture.run(one),
            "normals": normals_alone(n, d, ours * GENERATIONS),
            "eight": lambda: mixture.run(eight),
            "numpy, 1 thread": lambda: alone.submit(
                peer_trajectories, learner, n, d, theirs, 1
            ).result(),
            "numpy": lambda: alone.submit(peer_trajectories, learner, n, d, theirs, cores).result(),
            "joblib": lambda: pool(joblib.delayed(peer)(i) for i in range(theirs)),
        }
        seconds = interleaved(sides, _REPEATS.value)
    per = {name: ours * GENERATIONS for name in ("synthjax", "normals")}
    per |= {"eight": ours // 8 * 8 * GENERATIONS}
    per |= {name: theirs * GENERATIONS for name in ("numpy, 1 thread", "numpy", "joblib")}
    rate = {name: per[name] / statistics.median(seconds[name]) for name in sides}
    work = {name: per[name] / per["synthjax"] for name in sides}
    best = max(("numpy, 1 thread", "numpy"), key=rate.get)
    results.add(
        learner=learner,
        n=n,
        d=d,
        trajectory_generations_per_s=round(rate["synthjax"], 1),
        shared_draw_of_8_per_s=round(rate["eight"], 1),
        numpy_per_s=round(rate[best], 1),
        numpy_threads=cores if best == "numpy" else 1,
        joblib_per_s=round(rate["joblib"], 1),
        ratio_to_numpy=round(ratio(seconds[best], seconds["synthjax"], work[best]), 2),
        ratio_to_joblib=round(ratio(seconds["joblib"], seconds["synthjax"], work["joblib"]), 2),
        share_of_normals=round(ratio(seconds["normals"], seconds["synthjax"]), 2),
        compile_s=round(compiled, 2),
        peak_mib=round(peak_memory("benchmarks.mixture_direct", f"synthjax:{learner}:{n}:{d}")),
        peak_mib_numpy=round(peak_memory("benchmarks.mixture_direct", f"numpy:{learner}:{n}:{d}")),
        repeats=_REPEATS.value,
    )


def main(argv: list[str]) -> None:
    if _SIDE.value:
        side, learner, n, d = _SIDE.value.split(":")
        if side == "numpy":
            peer_trajectory(learner, int(n), int(d), 0)
        else:
            mixture.run(spec(learner, int(n), int(d), 64))
        return
    results = Results("mixture_direct")
    for learner in ("logistic", "ridge"):
        for size in SIZES:
            measure(results, learner, *size)


if __name__ == "__main__":
    app.run(main)
