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
import time

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import threadpoolctl
from absl import app, flags
from jax.sharding import Mesh, PartitionSpec
from sklearn.linear_model import LogisticRegression, Ridge

import synthjax
from benchmarks.common import Results, interleaved, peak_memory, ratio
from synthjax import mixture
from synthjax.mixture import plan, sweep

# n, d, our trajectories, the peer's
SIZES = ((2000, 50, 400, 40), (4000, 100, 120, 20), (10_000, 200, 24, 6))
GENERATIONS, THETA_GEN, THETA_VER, L2 = 3, 1.0, 0.5, 0.01

_REPEATS = flags.DEFINE_integer("repeats", 5, "Counted turns of each side.", lower_bound=1)
_SIDE = flags.DEFINE_string("side", None, "Only run SIDE:learner:n:d once (for peak memory).")


def spec(learner: str, n: int, d: int, trajectories: int, **more) -> mixture.Spec:
    return mixture.Spec(
        n=n,
        d=d,
        learner=learner,
        verifier="linear",
        theta_gen=THETA_GEN,
        theta_ver=THETA_VER,
        l2=L2,
        generations=GENERATIONS,
        trajectories=trajectories,
        **more,
    )


def peer_trajectory(learner: str, n: int, d: int, index: int) -> list[float]:
    """One trajectory as a NumPy + scikit-learn loop: accuracy of every generation."""
    rng = np.random.default_rng(index)
    w, v = np.zeros(d), np.zeros(d)
    w[:2] = np.cos(THETA_GEN), np.sin(THETA_GEN)
    v[[0, 2]] = np.cos(THETA_VER), np.sin(THETA_VER)
    accuracy = []
    for _ in range(GENERATIONS):
        x = rng.standard_normal((n, d))
        guesses = np.sign(x @ w)
        kept = guesses == np.sign(x @ v)
        x, guesses, m = x[kept], guesses[kept], kept.sum()
        if learner == "ridge":
            model = Ridge(alpha=L2 * m, fit_intercept=False)
        else:
            model = LogisticRegression(C=1 / (L2 * m), fit_intercept=False, tol=1e-5)
        w = model.fit(x, guesses).coef_.ravel()
        accuracy.append(1 - np.arccos(w[0] / np.linalg.norm(w)) / np.pi)
    return accuracy


def peer_trajectories(learner: str, n: int, d: int, count: int, threads: int) -> None:
    with threadpoolctl.threadpool_limits(threads):
        for index in range(count):
            peer_trajectory(learner, n, d, index)


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


def compile_seconds(run: mixture.Spec) -> float:
    """Seconds to trace and compile the program of a spec, without running it."""
    devices = jax.local_devices()
    groups = plan.groups(run)
    chunks = list(plan.chunks(groups, plan.chunk_work(groups, devices[0].platform, len(devices))))
    _, _, tiles = plan.layout(run, groups, chunks, devices[0].platform, len(devices))
    start = time.perf_counter()
    asked = sweep.arguments(groups[0], chunks[0], tiles[0], devices, None)
    sweep.run_tiles.lower(*asked).compile()
    return time.perf_counter() - start


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
