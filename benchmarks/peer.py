"""The work that benchmarks compare: synthjax's spec of it, and a NumPy + scikit-learn loop."""

import time

import jax
import numpy as np
import threadpoolctl
from sklearn.linear_model import LogisticRegression, Ridge

from synthjax import mixture
from synthjax.mixture import plan, sweep

GENERATIONS, THETA_GEN, THETA_VER, L2 = 3, 1.0, 0.5, 0.01


def spec(learner: str, n: int, d: int, trajectories: int, **more) -> mixture.Spec:
    return mixture.Spec(
        n=n,
        d=d,
        learner=learner,
        verifier="linear",
        theta_gen=THETA_GEN,
        theta_ver=THETA_VER,
        trajectories=trajectories,
        **{"engine": "direct", "l2": L2, "generations": GENERATIONS} | more,
    )


def peer_trajectory(
    learner: str,
    n: int,
    d: int,
    index: int,
    l2: float = L2,
    generations: int = GENERATIONS,
    dtype: str = "float64",
) -> list[float]:
    """One trajectory as a NumPy + scikit-learn loop: accuracy of every generation."""
    rng = np.random.default_rng(index)
    w, v = np.zeros(d, dtype), np.zeros(d, dtype)
    w[:2] = np.cos(THETA_GEN), np.sin(THETA_GEN)
    v[[0, 2]] = np.cos(THETA_VER), np.sin(THETA_VER)
    accuracy = []
    for _ in range(generations):
        x = rng.standard_normal((n, d), dtype=dtype)
        guesses = np.sign(x @ w)
        kept = guesses == np.sign(x @ v)
        x, guesses, m = x[kept], guesses[kept], kept.sum()
        if learner == "ridge":
            model = Ridge(alpha=l2 * m, fit_intercept=False)
        else:
            model = LogisticRegression(C=1 / (l2 * m), fit_intercept=False, tol=1e-5)
        w = model.fit(x, guesses).coef_.ravel()
        accuracy.append(1 - np.arccos(w[0] / np.linalg.norm(w)) / np.pi)
    return accuracy


def peer_trajectories(learner: str, n: int, d: int, count: int, threads: int, *more) -> None:
    with threadpoolctl.threadpool_limits(threads):
        for index in range(count):
            peer_trajectory(learner, n, d, index, *more)


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
