"""The matrix-free engine against the direct one and a NumPy + scikit-learn loop, interleaved.

    python -m benchmarks.mixture_matrix_free [--part=ridge|logistic|large|many|cost]

The peer is `benchmarks.peer`, in float32, in a process of its own, with the
better of one BLAS thread and a thread per core. All sides do the same trajectory-generations: draw,
label with a linear generator, keep where a linear verifier agrees, train, measure.

- ridge: (10,000, 200) and (100,000, 1000).
- logistic: (20,000, 2000) at l2 = 1e-2, 1e-3, 1e-4, and (100,000, 10,000) with peak memory.
- large: n = 10⁶, d = 10⁵, one generation, in a process of its own.
- many: 100,000 trajectories of 10 generations at (1000, 200).
- cost: time and products against n (d = n/10), d and batch; drawn as matrix_free_cost.png.
"""

import concurrent.futures
import multiprocessing
import statistics
import time

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

import synthjax
from benchmarks.common import RESULTS, Results, interleaved, peak_memory, ratio
from benchmarks.peer import compile_seconds, peer_trajectories, peer_trajectory, spec
from synthjax import mixture

MODULE = "benchmarks.mixture_matrix_free"
PARTS = ("ridge", "logistic", "large", "many", "cost")
# n, d, generations, then trajectories of matrix_free, of direct (0: none) and of the peer, repeats
RIDGE = ((10_000, 200, 3, 1000, 24, 8, 5), (100_000, 1000, 1, 96, 0, 1, 3))
LOGISTIC = ((20_000, 2000, 1, 16, 2, 1, 3), (100_000, 10_000, 1, 4, 0, 1, 1))

_PART = flags.DEFINE_enum("part", None, PARTS, "Only this part; its lines replace no others.")
_SIDE = flags.DEFINE_string("side", None, "Only run SIDE:learner:n:d once (for peak memory).")


def versus(results: Results, learner: str, size: tuple, l2: float, memory: bool = False) -> None:
    """One line: matrix_free, direct and the peer in turn."""
    n, d, generations, ours, direct, theirs, repeats = size
    own = dict(l2=l2, generations=generations)
    free = spec(learner, n, d, ours, engine="matrix_free", **own)
    cores, compiled = synthjax.cores(), compile_seconds(free)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:

        def peer(threads):
            asked = (learner, n, d, theirs, threads, l2, generations, "float32")
            return lambda: alone.submit(peer_trajectories, *asked).result()

        sides = {"matrix_free": lambda: mixture.run(free)}
        if direct:
            slow = spec(learner, n, d, direct, engine="direct", memory_gb=8.0, **own)
            sides["direct"] = lambda: mixture.run(slow)
        sides |= {f"numpy, {threads}": peer(threads) for threads in {1, cores}}
        # Where a turn of the peer takes minutes its first is counted: it compiles nothing.
        seconds = interleaved(sides, repeats)
    count = dict.fromkeys(sides, theirs) | {"matrix_free": ours, "direct": direct}
    each = {name: statistics.median(seconds[name]) / count[name] / generations for name in sides}
    best = min((name for name in sides if name.startswith("numpy")), key=each.get)

    def against(name):
        return round(ratio(seconds[name], seconds["matrix_free"], count[name] / ours), 1)

    found = mixture.run(free)
    line = dict(learner=learner, n=n, d=d, l2=l2, generations=generations)
    line |= {f"{name.split(',')[0]}_ms": round(1e3 * each[name], 3) for name in ("matrix_free",)}
    if direct:
        line |= dict(direct_ms=round(1e3 * each["direct"], 3), ratio_to_direct=against("direct"))
    line |= dict(
        numpy_ms=round(1e3 * each[best], 1),
        numpy_threads=int(best.split(", ")[1]),
        ratio_to_numpy=against(best),
        products=int(found["products"].max()),
        not_fine=int((found.status > 0).sum()),
        compile_s=round(compiled, 2),
        repeats=repeats,
    )
    if memory:
        for side in ("matrix_free", "numpy"):
            line[f"peak_mib_{side}"] = round(peak_memory(MODULE, f"{side}:{learner}:{n}:{d}"))
    results.add(**line)


def timed(run: mixture.Spec) -> tuple[float, int]:
    """Seconds of a second run, which compiles nothing, and the most products it took."""
    mixture.run(run)
    start = time.perf_counter()
    found = mixture.run(run)
    return time.perf_counter() - start, int(found["products"].max())


def large(results: Results) -> None:
    learner, n, d = "logistic", 10**6, 10**5
    start = time.perf_counter()
    peak = peak_memory(MODULE, f"matrix_free:{learner}:{n}:{d}")
    whole = time.perf_counter() - start
    seconds, products = timed(spec(learner, n, d, 1, engine="matrix_free", generations=1))
    results.add(
        learner=learner,
        n=n,
        d=d,
        l2=0.01,
        matrix_free_s=round(seconds, 2),
        process_s=round(whole, 1),
        products=products,
        peak_mib=round(peak),
        matrix_gib=round(4 * n * d / 2**30, 1),
    )


def many(results: Results) -> None:
    for learner in ("ridge", "logistic"):
        count = 100_000 if learner == "ridge" else 4000
        run = spec(learner, 1000, 200, count, engine="matrix_free", generations=10)
        start = time.perf_counter()
        mixture.run(run)
        seconds = time.perf_counter() - start
        results.add(
            learner=learner,
            n=1000,
            d=200,
            trajectories=count,
            generations=10,
            seconds=round(seconds, 1),
            trajectory_generations_per_s=round(count * 10 / seconds),
        )


def cost(results: Results) -> None:
    lines = {}
    for learner in ("ridge", "logistic"):
        cases = [("n", n, n // 10, max(1, 10**6 // n)) for n in (1000, 10_000, 100_000, 10**6)]
        cases += [("d", 10_000, d, 32) for d in (100, 1000, 10_000, 100_000)]
        cases += [("batch", 1000, 200, batch) for batch in (1, 16, 256, 4096)]
        for along, n, d, batch in cases:
            run = spec(learner, n, d, batch, engine="matrix_free", generations=1)
            seconds, products = timed(run)
            each = 1e3 * seconds / batch
            lines.setdefault((along, learner), []).append(
                ({"n": n, "d": d, "batch": batch}[along], each)
            )
            results.add(
                learner=learner, along=along, n=n, d=d, batch=batch, ms=each, products=products
            )
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    titles = {"n": "d = n/10", "d": "n = 10,000", "batch": "n = 1000, d = 200"}
    for axis, (along, title) in zip(
        figure.subplots(1, 3, sharey=True), titles.items(), strict=True
    ):
        for learner in ("ridge", "logistic"):
            axis.loglog(*np.transpose(lines[along, learner]), "o-", label=learner)
        axis.set(xlabel=along if along != "batch" else "trajectories", title=title)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ms for a trajectory-generation")
    figure.axes[0].legend()
    figure.savefig(RESULTS / "matrix_free_cost.png", dpi=120)


def main(argv: list[str]) -> None:
    if _SIDE.value:
        side, learner, n, d = _SIDE.value.split(":")
        if side == "numpy":
            peer_trajectory(learner, int(n), int(d), 0, 0.01, 1, "float32")
        else:
            mixture.run(spec(learner, int(n), int(d), 1, engine=side, generations=1))
        return
    for part in (_PART.value,) if _PART.value else PARTS:
        results = Results(f"mixture_matrix_free_{part}")
        if part == "ridge":
            for size in RIDGE:
                versus(results, "ridge", size, 0.01)
        elif part == "logistic":
            for l2 in (1e-2, 1e-3, 1e-4):
                versus(results, "logistic", LOGISTIC[0], l2)
            versus(results, "logistic", LOGISTIC[1], 1e-2, memory=True)
        else:
            {"large": large, "many": many, "cost": cost}[part](results)


if __name__ == "__main__":
    app.run(main)
