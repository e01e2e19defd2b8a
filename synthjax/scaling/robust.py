"""Robust non-linear least squares of many problems at once: starts, or resamples of the data.

A law has a few parameters and a series a few points, so that one by one the hundreds of fits behind
an interval would spend their time in the interpreter.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Array = np.ndarray
# Parameters stay within ±LIMIT, where their exponentials are finite.
LIMIT = 40.0
STEPS, TOLERANCE, DIFFERENCE = 150, 1e-10, 1e-6
DAMPING = (1e-9, 1e9)  # relative to the diagonal of the normal equations


def loss(
    residual: Float[Array, "batch points"], scatter: float
) -> tuple[Float[Array, " batch"], Float[Array, "batch points"]]:
    """Soft L1, s² Σ(√(1 + (r/s)²) − 1), and the weight of each residual; NaN counts for nothing."""
    residual = np.nan_to_num(residual, nan=0.0, posinf=1e6, neginf=-1e6)
    root = np.sqrt(1 + (residual / scatter) ** 2)
    return scatter**2 * (root - 1).sum(-1), 1 / root


def minimise(
    value: Callable[[Float[Array, "*batch p"]], Float[Array, "*batch points"]],
    target: Float[Array, "*batch points"],
    start: Float[Array, "batch p"],
    scatter: float,
) -> tuple[Float[Array, " batch"], Float[Array, "batch p"]]:
    """Losses and parameters at a minimum of value(parameters) − target below every start.

    Levenberg–Marquardt with the weights of the loss; NaN in `target` is a point that is not there.
    """
    here = np.clip(np.asarray(start, float), -LIMIT, LIMIT)
    batch, size = here.shape
    absent = np.isnan(np.broadcast_to(target, (batch, target.shape[-1])))
    damping = np.full(batch, 1e-2)
    shifts = DIFFERENCE * np.eye(size)

    def residual(parameters):
        return np.where(absent, 0.0, value(parameters) - target)

    with np.errstate(all="ignore"):
        left = residual(here)
        best, weight = loss(left, scatter)
        idle = np.zeros(batch, int)  # steps in a row that gained next to nothing
        for _ in range(STEPS):
            columns = [value(here + shift) - value(here - shift) for shift in shifts]
            slope = np.nan_to_num(np.stack(columns, -1)) / (2 * DIFFERENCE)
            slope = np.where(absent[..., None], 0.0, slope)
            weighted = slope * weight[..., None]
            normal = np.einsum("bip,biq->bpq", weighted, slope)
            gradient = np.einsum("bip,bi->bp", weighted, np.nan_to_num(left))
            diagonal = np.einsum("bpp->bp", normal)
            # A parameter that nothing depends on must not make the equations singular.
            floor = 1e-12 * diagonal.max(-1, keepdims=True) + 1e-30
            normal = normal + np.eye(size) * (damping[:, None] * diagonal + floor)[:, None, :]
            step = np.linalg.solve(normal, gradient[..., None])[..., 0]
            there = np.clip(here - np.clip(step, -3, 3), -LIMIT, LIMIT)
            moved = residual(there)
            cost, weights = loss(moved, scatter)
            better = cost < best
            idle = np.where(better & (best - cost > TOLERANCE * best), 0, idle + 1)
            here, left, weight = (
                np.where(better[:, None], new, old)
                for new, old in ((there, here), (moved, left), (weights, weight))
            )
            best = np.where(better, cost, best)
            damping = np.clip(np.where(better, damping / 5, damping * 4), *DAMPING)
            if (idle > 8).all():
                break
    return best, here
