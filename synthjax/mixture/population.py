"""Self-training with verification in the population limit: n → ∞ at fixed d, every built-in kind.

The setting is that of Feng, Dohmatob, Yang, Charton and Kempe, *Beyond Model Collapse: Scaling Up
with Synthesized Data Requires Verification* (arXiv 2406.07515). Every w_t is the minimiser of
E[ℓ(y′ x·w)] + (l2/2)‖w‖² over what generation t is trained on, followed in whitened coordinates
z = Σ^(−1/2) x, where it is u = Σ^(1/2) w and its penalty (l2/2) uᵀ Σ⁻¹ u.

Where Σ is diagonal, w*, g and v lie along its first three axes and everything stays there: D = 3.
A dense Σ takes its own principal axes for coordinates, D = d. What is kept varies in the frame of
(w*, w, v) only, and is N(0, I) outside it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.numpy.linalg import norm
from jaxtyping import Array, Float, Int

from synthjax.mixture import signed
from synthjax.mixture.covariance import rotation, spectrum
from synthjax.mixture.data import Numbers
from synthjax.mixture.quadrature import Moments, Scalar, Source, logistic, moments, ridge
from synthjax.mixture.signed import ROUNDING
from synthjax.mixture.theory import (
    agreement,
    angle_between,
    breakdown_point,
    cone_rates,
    place,
    population_direction,
)

KNOWN = {
    "features": ("teacher", "mixture"),
    "covariance": ("isotropic", "diagonal", "dense"),
    "initial": ("angle", "real"),
    "generator": ("linear", "logistic", "flip", "flip_by_class"),
    "verifier": ("none", "oracle", "noisy", "noisy_by_class", "linear", "margin", "self"),
    "selection": ("prune", "best_of_k"),
    "regime": ("replace", "mix", "accumulate", "subsample"),
    "learner": ("ridge", "logistic"),
}
Vector = Float[Array, " D"]
Summary = Moments | Source


class Population(NamedTuple):
    """A trajectory without randomness; entry t belongs to generation t.

    `accuracy`: agreement of the classifier w_t with the Bayes classifier, in [0, 1].
    `p_star`: breakdown point of the verifier on the guesses that w_t is trained on; NaN at 0.
    """

    accuracy: Float[Array, " generations+1"]
    p_star: Float[Array, " generations+1"]


def unknown(kinds: Mapping[str, str]) -> str | None:
    """Why there is no theory for a combination of kinds (family -> name), None where there is."""
    for family, names in KNOWN.items():
        if kinds[family] not in names:
            return f"no theory for {family}={kinds[family]}"
    return None


_BISECTED = {
    "features": "teacher",
    "covariance": "isotropic",
    "generator": "linear",
    "verifier": "linear",
    "selection": "prune",
    "regime": "replace",
}

_POOLING = ("accumulate", "subsample")


def population(*, generations: int, d: int, **kinds_and_numbers: str | Scalar) -> Population:
    """Follow T = `generations` ≥ 1 generations as n → ∞ at d features.

    The other arguments are the kinds of `KNOWN`, strings, and all `Numbers`; those that the kinds
    do not read may have any value. Kinds, `generations` and `d` are static, numbers may be traced.
    Over a grid on a CPU, `lax.map` of this beats `vmap`: a point's nodes fit the cache, and it
    stops when it has converged.

    Generation 0: accuracy of w₀; for flips, which have none, how often they are right. Accuracy is
    1/2 where the minimiser is 0, and NaN from the generation on in which there is nothing to train
    on. p* is NaN where no guess is right, or none wrong, unless the verifier's rates are the same
    for all guesses (none, noisy, and oracle when it prunes).

    l2 ≥ 0, and > 0 for the logistic learner. Against float64 quadrature with many times the nodes,
    over random settings of three generations, accuracy is within 2e-4 for l2 ≥ 1e-4 and within 1e-3
    down to 1e-6. Where the logistic generator, at temperatures down to 0.01, meets a linear or
    margin verifier that is 7e-4 and 2e-3; with linear guesses and no threshold it is 4e-5 at any
    l2. p* is as good where neither right nor wrong guesses are rare.
    """
    kinds = {family: kinds_and_numbers.pop(family) for family in KNOWN}
    numbers = Numbers(**kinds_and_numbers)
    if all(kinds[family] == kind for family, kind in _BISECTED.items()):
        return _bisectors(kinds["initial"], numbers, generations)

    axes, inverse = _axes(kinds["covariance"], numbers.covariance_decay, d)
    truth, g, v = (
        vector @ axes
        for vector in place(numbers.theta_gen, numbers.theta_ver, numbers.error_correlation)
    )
    flips, pools = kinds["generator"] in signed.FLIPS, kinds["regime"] in _POOLING
    from_real = kinds["initial"] == "real" and not flips
    summary = moments if kinds["learner"] == "ridge" else lambda source: source

    def guesses(kinds, numbers, w, flips=False, weight=1.0):
        """A summary of what is kept of the guesses of w, `weight` times; p*."""
        frame = _frame(axes, [w, v] if signed.has_classifier(kinds) else [w])
        points, weights, p_star = signed.kept(kinds, numbers, flips, w @ frame, v @ frame)
        return summary(Source(frame[None], points[None], weight * weights[None])), p_star

    def real(weight):
        """Truly labelled examples: flips of which none is wrong."""
        honest = kinds | dict(generator="flip", verifier="none", selection="prune")
        return guesses(honest, numbers._replace(p=jnp.zeros(())), truth, True, weight)[0]

    def fit(parts):
        return _fit(parts, kinds, numbers.l2 * inverse, axes[1])

    # Trained on what is kept and nothing else, by a penalty that does not turn the truth.
    alone = kinds["regime"] == "replace" and kinds["covariance"] != "dense"
    share, always = 1.0, []  # what every generation trains on
    if kinds["regime"] == "mix":
        share, always = 1 - numbers.real_fraction, [real(numbers.real_fraction)]
    elif pools and from_real:
        always = [real(numbers.n_real / numbers.n)]
    w = g
    if from_real:
        w = fit([real(1.0)])
    elif flips and alone and signed.has_no_plane(kinds):
        kept, first_p_star = signed.anywhere(kinds, numbers)
        w = _by_the_theorem(kept, truth, axes[1])
    elif flips:
        first, first_p_star = guesses(kinds, numbers, truth, True, share)
        w = fit([*always, first])
        always += [first] * pools

    def next_guesses(w):
        return guesses(kinds, numbers, w, weight=share)

    def generation(state, t):
        w, past = state
        new, p_star = next_guesses(w)
        if pools:
            past = new = _grown(past, new, t)
        new_w = fit([*always, new])
        return (new_w, past), (new_w, p_star)

    def accuracy(w):
        along = w @ truth
        off = norm(w - along[..., None] * truth, axis=-1)
        return agreement(jnp.arctan2(off, along), kinds["features"], numbers.signal)

    steps, ws, p_star = generations - flips, w[None], jnp.zeros(0)
    if steps:  # an empty scan would compile its body
        past = _no_past(jax.eval_shape(next_guesses, w)[0], steps) if pools else None
        _, (rest, p_star) = lax.scan(generation, (w, past), jnp.arange(steps))
        ws = jnp.concatenate([ws, rest])
    accuracies = accuracy(ws)
    if flips:
        right = 1 - signed.error_rates(kinds, numbers).mean()
        accuracies = jnp.append(right, accuracies)
        p_star = jnp.append(first_p_star, p_star)
    return Population(accuracies, jnp.append(jnp.nan, p_star))


def _bisectors(initial: str, numbers: Numbers, generations: int) -> Population:
    """Linear generator and verifier, isotropic teacher: closed forms at any l2, with any loss."""
    truth, g, v = place(numbers.theta_gen, numbers.theta_ver, numbers.error_correlation)
    g = g if initial == "angle" else truth
    t = jnp.arange(1, generations + 1)
    ws = jnp.concatenate([g[None], population_direction(g, v, t[:, None])])
    angles = angle_between(ws, truth)
    _, phi, psi = cone_rates(angles[:-1], numbers.theta_ver, angle_between(ws[:-1], v))
    p_star = jnp.append(jnp.nan, breakdown_point(phi, psi))
    return Population(agreement(angles, "teacher", numbers.signal), p_star)


def _axes(covariance: str, decay: Scalar, d: int) -> tuple[Float[Array, "3 D"], Float[Array, " D"]]:
    """The first three axes of z in coordinates that diagonalise Σ, and its inverse eigenvalues."""
    if covariance == "dense":
        return jnp.asarray(rotation(d)[:3]), 1 / spectrum(d, decay)
    inverse = 1 / spectrum(d, decay)[:3] if covariance == "diagonal" else jnp.ones(3)
    return jnp.eye(3), inverse


def _frame(axes: Float[Array, "3 D"], vectors: Sequence[Vector]) -> Float[Array, "D k"]:
    """Orthonormal columns: w*, then each of the vectors as far as it is new.

    A vector that is not leaves its column to e₁ or, in a frame of three, e₂.
    """
    frame = [axes[0]]
    for vector in vectors:
        rest = jnp.stack([vector / norm(vector), *axes[1 : len(vectors) + 1]])
        for _ in range(2):  # once leaves a short rest askew in float32
            for column in frame:
                rest -= (rest @ column)[:, None] * column
        size = norm(rest, axis=1)
        chosen = jnp.where(size[0] > 10 * ROUNDING, 0, 1 + jnp.argmax(size[1:]))
        frame.append(rest[chosen] / size[chosen])
    return jnp.stack(frame, 1)


def _by_the_theorem(kept: Float[Array, "2"], truth: Vector, astray: Vector) -> Vector:
    """The minimiser's direction where guesses are kept whatever z is, as the paper proves.

    `kept`: joint probabilities that a guess is kept and right, or kept and wrong; only which is
    larger counts. Where neither is, and where nothing is kept, see `_fit`.
    """
    gain, mass = kept[0] - kept[1], kept.sum()
    w = jnp.where(jnp.abs(gain) > ROUNDING * mass, jnp.sign(gain) * truth, astray)
    return jnp.where(mass > 0, w, jnp.nan)


def _fit(
    parts: Sequence[Summary], kinds: Mapping[str, str], penalty: Vector, astray: Vector
) -> Vector:
    """The minimiser over the sum of all parts, `Moments` for ridge and `Source`s for logistic.

    NaN without anything to train on. Where it is 0, w_t at finite n is noise of any direction,
    which in high dimension is orthogonal to the truth: a very short w along `astray` stands for it.
    """
    if kinds["learner"] == "ridge":
        total = jax.tree.map(lambda *leaves: sum(leaves), *parts)
        w, mass = ridge(total, penalty), total.mass
    else:
        dimensions = 3 if signed.has_classifier(kinds) else 2
        w = logistic(parts, penalty, len(penalty) if kinds["covariance"] == "dense" else dimensions)
        mass = sum(source.weights.sum() for source in parts)
    # (1 + penalty) w is about E[u], or half of it: 0 where right and wrong outweigh each other.
    w = jnp.where(norm((1 + penalty) * w) < 3 * ROUNDING, ROUNDING * astray, w)
    return jnp.where(mass > ROUNDING, w, jnp.nan)


def _no_past(new: Summary, generations: int) -> Summary:
    """What `_grown` begins with, from the shapes of a generation's summary."""
    if isinstance(new, Source):
        new = jax.tree.map(lambda x: jnp.zeros((generations, *x.shape[1:])), new)
    return jax.tree.map(lambda x: jnp.zeros(x.shape), new)


def _grown(past: Summary, new: Summary, t: Int[Array, ""]) -> Summary:
    """The past with a generation more: its moments added, its nodes put in place t."""
    if isinstance(new, Moments):
        return jax.tree.map(jnp.add, past, new)
    return jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, t, 0), past, new)
