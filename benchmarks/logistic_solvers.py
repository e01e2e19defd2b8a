"""Which solver for the logistic learner? Ours (L-BFGS) against Newton, Newton–CG and optax's.

    python -m benchmarks.logistic_solvers [--repeats=7]

All of them stop at the same relative gradient norm in float32, on the same isotropic data, under
vmap over eight weightings of one draw, as in a sweep. Newton forms and factors the d × d Hessian;
Newton–CG and L-BFGS only multiply with x, and their line searches cost no product.
"""

import functools
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.common import Results, interleaved, ratio
from synthjax.mixture.data import Numbers, Sample
from synthjax.mixture.learn import MAX_ITERATIONS, TARGET, Fit, logistic

# n, d, λ, rate of wrong labels
SETTINGS = (
    (2000, 50, 1e-2, 0.2),
    (4000, 100, 1e-2, 0.2),
    (4000, 100, 1e-4, 0.02),
    (10_000, 200, 1e-2, 0.2),
    (1000, 200, 1e-3, 0.1),
)
POINTS = 8

_REPEATS = flags.DEFINE_integer("repeats", 7, "Counted turns of each solver.", lower_bound=1)


def parts(sample: Sample, l2) -> tuple[Callable, Callable]:
    """Gradient and Hessian weights at w, given its margins y′ x·w."""
    share = sample.weights / sample.weights.sum()

    def gradient(w, margin):
        return l2 * w - (sample.labels * share * jax.nn.sigmoid(-margin)) @ sample.x

    def curvature(margin):
        doubt = jax.nn.sigmoid(-margin)
        return share * doubt * (1 - doubt)

    return gradient, curvature


def iterate(sample: Sample, l2, direction: Callable) -> Fit:
    """Full steps w + direction(w, margin, gradient) until the gradient is small enough."""
    gradient, _ = parts(sample, l2)

    def step(state):
        w, margin, g, k = state
        w = w + direction(margin, g)
        margin = sample.labels * (sample.x @ w)
        return w, margin, gradient(w, margin), k + 1

    w, margin = jnp.zeros(sample.x.shape[1]), jnp.zeros(len(sample.labels))
    g = gradient(w, margin)
    target = TARGET * jnp.linalg.norm(g)
    w, _, g, _ = jax.lax.while_loop(
        lambda s: (jnp.linalg.norm(s[2]) > target) & (s[3] < MAX_ITERATIONS),
        step,
        (w, margin, g, 0),
    )
    return Fit(w, jnp.linalg.norm(g) <= target)


def newton(sample: Sample, l2) -> Fit:
    _, curvature = parts(sample, l2)

    def direction(margin, g):
        hessian = (sample.x * curvature(margin)[:, None]).T @ sample.x + l2 * jnp.eye(len(g))
        return -jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(hessian), g)

    return iterate(sample, l2, direction)


def newton_cg(sample: Sample, l2) -> Fit:
    _, curvature = parts(sample, l2)

    def direction(margin, g):
        h = curvature(margin)

        def product(p):
            return (h * (sample.x @ p)) @ sample.x + l2 * p

        return -jax.scipy.sparse.linalg.cg(product, g, tol=0.1)[0]

    return iterate(sample, l2, direction)


def optax_lbfgs(sample: Sample, l2) -> Fit:
    share = sample.weights / sample.weights.sum()

    def loss(w):
        margin = sample.labels * (sample.x @ w)
        return share @ jax.nn.softplus(-margin) + l2 / 2 * w @ w

    solver = optax.lbfgs(memory_size=5)
    value_and_grad = optax.value_and_grad_from_state(loss)
    w = jnp.zeros(sample.x.shape[1])
    target = TARGET * jnp.linalg.norm(jax.grad(loss)(w))

    def step(carry):
        w, state, _, k = carry
        value, g = value_and_grad(w, state=state)
        updates, state = solver.update(g, state, w, value=value, grad=g, value_fn=loss)
        w = optax.apply_updates(w, updates)
        return w, state, jnp.linalg.norm(optax.tree.get(state, "grad")), k + 1

    w, _, size, _ = jax.lax.while_loop(
        lambda c: (c[2] > target) & (c[3] < MAX_ITERATIONS), step, (w, solver.init(w), jnp.inf, 0)
    )
    return Fit(w, size <= target)


def lbfgs(sample: Sample, l2) -> Fit:
    """synthjax's own, which of all numbers reads l2 alone."""
    unread = Numbers(*[0.0] * len(Numbers._fields))
    return logistic(jax.random.key(0), unread._replace(l2=l2), sample)


SOLVERS = {"lbfgs": lbfgs, "newton": newton, "newton_cg": newton_cg, "optax_lbfgs": optax_lbfgs}


def samples(n: int, d: int, wrong: float) -> Sample:
    """One draw of the features with POINTS weightings and labellings of it."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (n, d))
    flipped = jax.random.bernoulli(keys[1], wrong, (POINTS, n))
    labels = jnp.where(flipped, -1.0, 1.0) * jnp.sign(x[:, 0])
    return Sample(x, labels, jax.random.bernoulli(keys[2], 0.7, (POINTS, n)).astype(jnp.float32))


def main(argv: list[str]) -> None:
    results = Results("logistic_solvers")
    for n, d, l2, wrong in SETTINGS:
        sample = samples(n, d, wrong)
        solvers = {
            name: functools.partial(
                jax.jit(jax.vmap(solver, (Sample(None, 0, 0), None))), sample, l2
            )
            for name, solver in SOLVERS.items()
        }
        fits = {name: solver() for name, solver in solvers.items()}
        best = np.asarray(fits["newton"].w)
        timed = {name: lambda f=f: jax.block_until_ready(f()) for name, f in solvers.items()}
        seconds = interleaved(timed, _REPEATS.value)
        for name, fit in fits.items():
            off = np.linalg.norm(fit.w - best, axis=1) / np.linalg.norm(best, axis=1)
            results.add(
                solver=name,
                n=n,
                d=d,
                l2=l2,
                ms_per_fit=round(statistics.median(seconds[name]) / POINTS * 1e3, 3),
                ratio_to_ours=round(ratio(seconds[name], seconds["lbfgs"]), 2),
                converged=f"{int(fit.converged.sum())}/{POINTS}",
                distance_to_newton=float(f"{off.max():.1e}"),
                repeats=_REPEATS.value,
            )


if __name__ == "__main__":
    app.run(main)
