"""State evolution: self-training with verification in high dimension, without randomness.

As n and d grow together at a fixed d/n, what a learner makes of a generation is settled by a few
numbers: w's overlaps with what decides (w*, v, the last classifier) and the norm of the rest, of
which the direction is random. `planar` integrates over what is kept, `fixed_point` has the learner.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.numpy.linalg import norm
from jaxtyping import Array, Bool, Float, Int

from synthjax.mixture import fixed_point, planar, signed
from synthjax.mixture.data import Numbers
from synthjax.mixture.quadrature import Scalar
from synthjax.mixture.signed import ROUNDING
from synthjax.mixture.theory import agreement, place, test_agreement
from synthjax.mixture.trajectory import FINE, NOT_CONVERGED, NOTHING_KEPT, Record, Static

KNOWN = {
    "features": ("teacher", "mixture"),
    "covariance": ("isotropic",),
    "initial": ("angle", "real"),
    "generator": ("linear", "logistic", "flip", "flip_by_class"),
    "verifier": ("none", "oracle", "noisy", "noisy_by_class", "linear", "margin", "self"),
    "selection": ("prune", "best_of_k"),
    "regime": ("replace", "mix"),
    "learner": ("ridge", "logistic"),
}
_TRUTHFUL = ("oracle", "noisy", "noisy_by_class")  # verifiers that look at the true label


class Evolution(NamedTuple):
    """A trajectory without randomness; entry t belongs to generation t.

    `w`: the classifier along w*, along the rest of v, and the norm of its rest; 0 where there is
    none. `accuracy`: its agreement with the Bayes classifier; of a flip generator without one, how
    often it is right. `right` … `kept_wrong`: of all guesses the fractions that are right or wrong,
    and kept besides; 0 at t = 0. `converged`: whether the fixed point was found.
    """

    w: Float[Array, "generations+1 3"]
    accuracy: Float[Array, " generations+1"]
    right: Float[Array, " generations+1"]
    wrong: Float[Array, " generations+1"]
    kept_right: Float[Array, " generations+1"]
    kept_wrong: Float[Array, " generations+1"]
    converged: Bool[Array, " generations+1"]


def trajectory(
    static: Static,
    numbers: Numbers,
    axes: None,
    seed: Int[Array, ""],
    index: Int[Array, ""],
    before: None = None,
    any_of: Callable = jnp.any,
) -> Record:
    """As `trajectory.trajectory`, but what is expected: nothing is drawn, counts are rounded."""
    kinds = {family: name for family, name in static.names if family in KNOWN}
    found = evolution(**kinds, **numbers._asdict(), generations=static.generations, d=static.d)
    size = norm(found.w, axis=1)
    there = jnp.where(size > 0, size, jnp.nan)
    overlap = found.w[:, 0] / there
    b = numbers.theta_ver
    features, signal = kinds["features"], numbers.signal
    test = test_agreement(jnp.arccos(jnp.clip(overlap, -1, 1)), features, signal)
    fresh = jnp.round(numbers.real_fraction * numbers.n) * (kinds["regime"] == "mix")
    guesses = (numbers.n - fresh) * (numbers.k if kinds["selection"] == "best_of_k" else 1)
    status = jnp.where(found.converged, FINE, NOT_CONVERGED)
    right, wrong, kept_right, kept_wrong = (
        jnp.round(jnp.nan_to_num(part) * guesses).astype(jnp.int32)
        for part in (found.right, found.wrong, found.kept_right, found.kept_wrong)
    )
    along_v = (jnp.cos(b) * found.w[:, 0] + jnp.sin(b) * found.w[:, 1]) / there
    return Record(
        accuracy=found.accuracy,
        test_accuracy=jnp.where(size > 0, test, found.accuracy),
        overlap=overlap,
        verifier_overlap=jnp.where(static.has_classifier, along_v, jnp.nan),
        norm=there,
        status=jnp.where(jnp.isnan(found.w[:, 0]), NOTHING_KEPT, status).astype(jnp.int32),
        right=right,
        wrong=wrong,
        # Of other nodes, or rounded apart from all of them, it might be one more.
        kept_right=jnp.minimum(kept_right, right),
        kept_wrong=jnp.minimum(kept_wrong, wrong),
        products=jnp.zeros(static.generations + 1, jnp.int32),
        carried=found.w[-1:],
        classifier=None,
    )


def unknown(kinds: Mapping[str, str]) -> str | None:
    """Why there is no state evolution for a combination of kinds, None where there is."""
    for family, names in KNOWN.items():
        if kinds[family] not in names:
            return f"no state evolution for {family}={kinds[family]}"
    return None


def evolution(*, generations: int, d: int, **kinds_and_numbers: str | Scalar) -> Evolution:
    """Follow T = `generations` ≥ 1 generations at n examples of d features.

    The other arguments are the kinds of `KNOWN`, strings, and all `Numbers`. Kinds and
    `generations` are static; numbers and `d` may be traced, vmapped and differentiated (through all
    but k). NaN from the generation on in which nothing is kept. Float32 or, where JAX computes in
    it, float64.
    """
    kinds = {family: kinds_and_numbers.pop(family) for family in KNOWN}
    numbers = Numbers(**kinds_and_numbers)
    flips = kinds["generator"] in signed.FLIPS
    b, rho = numbers.theta_ver, numbers.error_correlation
    truth, v = jnp.eye(3)[0], jnp.stack([jnp.cos(b), jnp.sin(b), jnp.zeros_like(b)])
    g = place(numbers.theta_gen, 0.0, 0.0)[1]
    if signed.has_classifier(kinds):
        g = jnp.stack([g[0], g[1] * rho, g[1] * jnp.sqrt(1 - rho**2)])
    share = 1 - numbers.real_fraction if kinds["regime"] == "mix" else 1.0

    def train(sources, n):
        mass = sum(source.weights.sum() for source in sources)
        safe = jnp.where(mass > ROUNDING, mass, 1)
        sources = [source._replace(weights=source.weights / safe) for source in sources]
        gamma = jnp.maximum(d - _directions(kinds), 0) / (n * safe)
        fit = fixed_point.ridge if kinds["learner"] == "ridge" else fixed_point.logistic
        alpha, sigma, converged = fit(sources, numbers.l2, gamma)
        # The rest of the new classifier: along the last one's, and what is noise.
        new = jnp.stack([alpha[0], alpha[1], jnp.sqrt(alpha[2] ** 2 + sigma**2)])
        return jnp.where(mass > ROUNDING, new, jnp.nan), converged & (mass > ROUNDING)

    def generation(w, first=False):
        source, counts = planar.kept(kinds, numbers, first, w, v)
        sources = [source._replace(weights=share * source.weights)]
        if kinds["regime"] == "mix":
            sources.append(planar.real(kinds, numbers, numbers.real_fraction))
        return *train(sources, numbers.n), counts

    def step(w, _):
        new, converged, counts = generation(w)
        return new, (new, converged, counts)

    none = jnp.zeros(4)
    w, fine = jnp.where(flips, 0.0, g), jnp.array(True)
    if kinds["initial"] == "real" and not flips:
        w, fine = train([planar.real(kinds, numbers, 1.0)], numbers.n_real)
    ws, converged, counts = [w[None]], [fine[None]], [none[None]]
    if flips:
        w, fine, count = generation(truth, first=True)
        ws, converged, counts = [*ws, w[None]], [*converged, fine[None]], [*counts, count[None]]
    if generations > flips:
        _, more = lax.scan(step, w, None, length=generations - flips)
        for whole, rest in zip((ws, converged, counts), more, strict=True):
            whole.append(rest)
    ws, converged, counts = (jnp.concatenate(parts) for parts in (ws, converged, counts))
    angle = jnp.arctan2(norm(ws[:, 1:], axis=1), ws[:, 0])
    accuracy = agreement(angle, kinds["features"], numbers.signal)
    if flips:
        accuracy = accuracy.at[0].set(1 - signed.error_rates(kinds, numbers).mean())
    return Evolution(ws, accuracy, *counts.T, converged)


def _directions(kinds: Mapping[str, str]) -> int:
    """How many directions decide, or have a mean: along all others features are noise."""
    flips = kinds["generator"] in signed.FLIPS
    truth = (
        kinds["features"] == "mixture"
        or flips
        or kinds["verifier"] in _TRUTHFUL
        or kinds["regime"] == "mix"
    )
    return truth + signed.has_classifier(kinds) + (not flips)
