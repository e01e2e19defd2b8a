"""State evolution: self-training with verification in high dimension, without randomness.

As n and d grow together at a fixed d/n, what a learner makes of a generation is settled by a few
numbers: w's overlaps with what decides (w*, v, the last classifier) and the norm σ of the rest, of
which the direction is random. Ridge has closed forms; the fixed point of any convex loss is that of
Salehi, Abbasi and Hassibi, *The impact of regularization on high-dimensional logistic regression*
(2019), and Mignacco, Krzakala, Lu, Urbani and Zdeborová, *The role of regularization in
classification of high-dimensional noisy Gaussian mixture* (2020). With γ = k/m for m examples, k
directions of noise, u = y′z of what is kept, and margins x = prox_{χℓ}(u·α + σG), G ~ N(0, 1):

    λα = −E[u ℓ′(x)],  ζ = E[ℓ″(x)/(1 + χℓ″(x))],  χ = γ/(λ + ζ),  σ² = γ E[ℓ′(x)²]/(λ + ζ)².

What is kept is a normal times factors that read two directions at most, so integrals over it need
nodes in one plane. Along the third axis of the frame (w*, v, w) it is a unit normal, around ± its
part of μ in the mixture: that adds to the mean of the margin, and its spread to G's.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.numpy.linalg import norm
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float, Int

from synthjax.mixture import signed
from synthjax.mixture.data import Numbers
from synthjax.mixture.quadrature import Scalar, edges, legendre, sector
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
_RAYS = {1: 40, 2: 24, 3: 16}  # between two edges, by the parts of a half-plane
_RADII, _REACH = 24, 7.0
_ACROSS = 22  # nodes along a coordinate, between two jumps
_NORMALS = 20
_PROX = 9  # Newton steps, each towards the solution, from a start on its side of the inflection
_STEPS, _HALVINGS = 60, 12
_BRACKET = 30  # halvings of a threshold's bracket

Vector = Float[Array, "3"]


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


class _Source(NamedTuple):
    """Examples u = y′z: nodes in the plane of two axes, a normal around `offset` along the third.

    `axes` are orthonormal rows in the frame; weights sum to the mass of the source.
    """

    axes: Float[Array, "3 3"]
    points: Float[Array, "2 nodes"]
    offset: Float[Array, " nodes"]
    weights: Float[Array, " nodes"]


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
    counts = (
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
        **dict(zip(("right", "wrong", "kept_right", "kept_wrong"), counts, strict=True)),
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
    but k). NaN from the generation on in which nothing is kept. Float32
    or, where JAX computes in it, float64.
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
        fit = _ridge if kinds["learner"] == "ridge" else _logistic
        alpha, sigma, converged = fit(sources, numbers.l2, gamma)
        # The rest of the new classifier: along the last one's, and what is noise.
        new = jnp.stack([alpha[0], alpha[1], jnp.sqrt(alpha[2] ** 2 + sigma**2)])
        return jnp.where(mass > ROUNDING, new, jnp.nan), converged & (mass > ROUNDING)

    def generation(w, first=False):
        source, counts = _kept(kinds, numbers, first, w, v)
        sources = [source._replace(weights=share * source.weights)]
        if kinds["regime"] == "mix":
            sources.append(_real(kinds, numbers, numbers.real_fraction))
        return *train(sources, numbers.n), counts

    def step(w, _):
        new, converged, counts = generation(w)
        return new, (new, converged, counts)

    none = jnp.zeros(4)
    w, fine = jnp.where(flips, 0.0, g), jnp.array(True)
    if kinds["initial"] == "real" and not flips:
        w, fine = train([_real(kinds, numbers, 1.0)], numbers.n_real)
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


def _axes(first: Vector, second: Vector) -> Float[Array, "3 3"]:
    """Orthonormal rows: `first`, the rest of `second` (any other if it has none), a third."""
    rest = jnp.stack([second, *jnp.eye(3)[1:], jnp.eye(3)[0]])
    for _ in range(2):  # once leaves a short rest askew in float32
        rest = rest - (rest @ first)[:, None] * first
    size = jnp.sqrt(jnp.maximum((rest**2).sum(1), ROUNDING**4))
    chosen = jnp.where(size[0] > 10 * ROUNDING, 0, 1 + jnp.argmax(size[1:]))
    other = rest[chosen] / size[chosen]
    return jnp.stack([first, other, jnp.cross(first, other)])


@jax.default_matmul_precision("highest")
def _kept(
    kinds: Mapping[str, str], numbers: Numbers, flips: bool, w: Vector, v: Vector
) -> tuple[_Source, Float[Array, "4"]]:
    """What is kept of the guesses of w, and the fractions right, wrong, kept and either.

    `flips`: whether they are those of a flip generator in generation 1, which reads no w.
    """
    teacher, pruned = kinds["features"] == "teacher", kinds["selection"] == "prune"
    classifier, verifier = signed.has_classifier(kinds), kinds["verifier"]
    logistic = kinds["generator"] == "logistic"
    truth = jnp.eye(3)[0]
    size = norm(w)
    axes = _axes(truth if flips else w / size, v if classifier else truth)
    along_truth, along_v = axes @ truth, axes @ v
    ranks = pruned and verifier in ("margin", "self")
    scored = along_v[:2] if verifier == "margin" else jnp.array([1.0, 0.0])

    normals = []  # of the lines on which a factor jumps, besides the first axis
    if classifier and not ranks:
        normals.append(along_v[:2])
    if teacher and not flips:
        normals.append(along_truth[:2])
    lines = [jnp.arctan2(normal[1], normal[0]) for normal in normals]
    means = jnp.asarray([0.0] if teacher else [1.0, -1.0])
    centres = means[:, None] * numbers.signal * along_truth[:2]
    sides = [0.0, np.pi] if logistic or flips else [0.0]
    splits = jnp.stack([edges(side, lines) for side in sides])

    def about(points):
        """Whether guesses at these points are right, and the chance that a draw is this label."""
        if teacher:
            right = along_truth[:2] @ points > 0
        else:
            right = jnp.repeat(means > 0, points.shape[1] // 2)
        chance = jnp.ones((1, points.shape[1]))
        if flips:
            wrong = signed.error_rates(kinds, numbers)[:, None]
            chance = jnp.where(right, 1 - wrong, wrong)
        elif logistic:
            chance = jax.nn.sigmoid(size * points[0] / numbers.temperature)[None]
        elif ranks:
            chance = (points > 0).astype(points.dtype)[:1]
        return right, chance

    def certain(points, right):
        """P(right) there; with a classifier and no flips the teacher's truth lies across."""
        if teacher and classifier and not flips:
            across = jnp.maximum(jnp.abs(along_truth[2]), ROUNDING)
            return ndtr(along_truth[:2] @ points / across)
        return right.astype(points.dtype)

    def flat(points, weights):
        points = jnp.moveaxis(points, -2, 0).reshape(2, -1)
        return points, (2 if teacher else 1) * weights.ravel()

    def one(centre, split):
        return sector(split, centre, _RAYS[len(lines) + 1], radii=_RADII, reach=_REACH)

    def above(threshold):
        """All guesses of a higher score."""
        cuts = [jnp.array([1.0, 0.0]), *normals]
        return flat(*jax.vmap(lambda centre: _strip(threshold, scored, cuts, centre))(centres))

    def share(threshold):
        points, weights = above(threshold)
        return (weights * about(points)[1].mean(0)).sum()

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        enough = share(middle) > numbers.keep
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    points, weights = flat(*jax.vmap(jax.vmap(one, (None, 0)), (0, None))(centres, splits))
    right, chance = about(points)
    every = weights * chance.mean(0)
    every = [(every * side).sum() for side in _sides(certain(points, right))]
    if ranks:
        far = _REACH + numbers.signal * (not teacher)
        found = sum(lax.stop_gradient(lax.fori_loop(0, _BRACKET, halve, (-far, far)))) / 2
        # A step that derivatives alone see: they become those of the crossing.
        slope = jax.jvp(share, (found,), (jnp.ones_like(found),))[1]
        now = share(found) - numbers.keep
        slope = lax.stop_gradient(jnp.minimum(slope, -(ROUNDING**2)))
        threshold = found - (now - lax.stop_gradient(now)) / slope
        points, weights = above(threshold)
        right, chance = about(points)
        kept = weights * chance.mean(0)
    else:
        preferred = None
        if classifier or verifier == "self":
            preferred = (along_v[:2] if classifier else scored) @ points > 0
        kept = weights * signed.selected(kinds, numbers, right, chance, preferred)
    offset = jnp.zeros_like(weights)
    if not teacher:
        offset = jnp.where(right, 1, -1) * numbers.signal * along_truth[2]
    fractions = [*every, *((kept * side).sum() for side in _sides(certain(points, right)))]
    return _Source(axes, points, offset, kept), jnp.stack(fractions)


def _sides(chance: Float[Array, " nodes"]) -> tuple[Float[Array, " nodes"], ...]:
    return chance, 1 - chance


def _strip(
    threshold: Scalar,
    scored: Float[Array, "2"],
    normals: list[Float[Array, "2"]],
    mean: Float[Array, "2"],
) -> tuple[Float[Array, "2 nodes"], Float[Array, " nodes"]]:
    """Points and weights of N(mean, I₂) where the score, a coordinate, passes a threshold.

    On each line of that score they are split where it meets lines through 0 with these normals.
    """
    turned = jnp.stack([-scored[1], scored[0]])
    along, across = mean @ scored, mean @ turned
    low = jnp.maximum(threshold, along - _REACH)
    middle, high = jnp.maximum(low, 0), jnp.maximum(low, along) + _REACH
    t, t_weights = legendre(_ACROSS)
    score = jnp.concatenate([low + (middle - low) * t, middle + (high - middle) * t])
    score_weights = jnp.concatenate([(middle - low) * t_weights, (high - middle) * t_weights])
    cuts = []
    for normal in normals:
        slope = normal @ turned
        slope = jnp.where(jnp.abs(slope) > ROUNDING, slope, ROUNDING)
        cuts.append(-(normal @ scored) * score / slope)
    ends = [jnp.full_like(score, across - _REACH), *cuts, jnp.full_like(score, across + _REACH)]
    ends = jnp.sort(jnp.clip(jnp.stack(ends), across - _REACH, across + _REACH), 0)
    width = jnp.diff(ends, axis=0)[..., None]
    other = ends[:-1, :, None] + width * t
    score = jnp.broadcast_to(score[:, None], other.shape)
    density = jnp.exp(-((score - along) ** 2 + (other - across) ** 2) / 2) / (2 * jnp.pi)
    weights = score_weights[:, None] * width * t_weights * density
    points = scored[:, None] * score.ravel() + turned[:, None] * other.ravel()
    return points, weights.ravel()


def _real(kinds: Mapping[str, str], numbers: Numbers, mass: Scalar) -> _Source:
    """Truly labelled examples: flips of which none is wrong."""
    honest = dict(kinds) | dict(generator="flip", verifier="none", selection="prune")
    source, _ = _kept(honest, numbers._replace(p=jnp.zeros(())), True, jnp.eye(3)[0], jnp.eye(3)[1])
    return source._replace(weights=mass * source.weights)


@jax.default_matmul_precision("highest")
def _ridge(
    sources: list[_Source], l2: Scalar, gamma: Scalar
) -> tuple[Vector, Scalar, Bool[Array, ""]]:
    """(α, σ): with 1/m̃ = l2 + γ/(1+m̃) and s = l2 m̃, α = (sC + l2)⁻¹ s h and
    σ² = E[(1 − u·α)²] γ s / ((l2 + s) √((l2+γ−1)² + 4 l2)), C = E[uuᵀ], h = E[u].
    """
    first, second = jnp.zeros(3), jnp.zeros((3, 3))
    for axes, points, offset, weights in sources:
        u = jnp.concatenate([points, offset[None]])
        first += (weights * u).sum(1) @ axes
        inside = (weights * u) @ u.T + jnp.diag(jnp.array([0.0, 0.0, 1.0])) * weights.sum()
        second += axes.T @ inside @ axes
    root = jnp.sqrt((l2 + gamma - 1) ** 2 + 4 * l2)
    tilt = l2 + gamma - 1
    s = jnp.where(tilt < 0, (root - tilt) / 2, 2 * l2 / jnp.maximum(root + tilt, ROUNDING**2))
    # Divided by s, which is 0 with l2 where γ ≥ 1: then α is that of l2/s → γ − 1.
    ratio = jnp.where(tilt < 0, l2 / jnp.where(s > 0, s, 1), (root + tilt) / 2)
    alpha = solve(second + ratio * jnp.eye(3), first)
    left = 1 - 2 * alpha @ first + alpha @ second @ alpha
    sigma = jnp.sqrt(jnp.maximum(left, 0) * gamma / ((ratio + 1) * root))
    return alpha, sigma, jnp.array(True)


class _Point(NamedTuple):
    """Unknowns of the fixed point."""

    alpha: Vector
    log_sigma: Scalar
    log_chi: Scalar


@jax.default_matmul_precision("highest")
def _logistic(
    sources: list[_Source], l2: Scalar, gamma: Scalar
) -> tuple[Vector, Scalar, Bool[Array, ""]]:
    """(α, σ) of the fixed point for ℓ(z) = log(1 + e⁻ᶻ), by damped Newton, and whether it is found.

    From the squared loss that agrees with ℓ at 0 to second order. A last step that alone is seen by
    derivatives makes them those of the fixed point.
    """
    gamma = jnp.maximum(gamma, ROUNDING**2)  # no noise: σ → 0
    given = sources, l2, gamma
    fixed_sources, fixed_l2, fixed_gamma = fixed = lax.stop_gradient(given)
    alpha, sigma, _ = _ridge(fixed_sources, 4 * fixed_l2, fixed_gamma)
    slope = 4 * fixed_l2 + 1 - fixed_gamma
    root = jnp.sqrt(slope**2 + 16 * fixed_l2 * fixed_gamma)
    chi = jnp.where(slope > 0, 8 * fixed_gamma / (root + slope), (root - slope) / (2 * fixed_l2))
    begin = jnp.concatenate(
        [2 * alpha, jnp.log(jnp.stack([jnp.maximum(2 * sigma, ROUNDING), chi]))]
    )
    tolerance = 1e-5 if begin.dtype == jnp.float32 else 1e-11

    def residual(x):
        return _residual(x, *fixed)

    def shorter(state):
        x, step, t, _, halvings = state
        t = t / 2
        return x, step, t, residual(x + t * step), halvings + 1

    def too_long(old, state):
        *_, t, new, halvings = state
        return ~(norm(new) < (1 - 1e-3 * t) * norm(old)) & (halvings < _HALVINGS)

    def newton(state):
        x, r, i, _ = state
        step = -solve(jax.jacfwd(residual)(x), r)
        step *= jnp.minimum(1, 2 / jnp.maximum(jnp.abs(step[3:]).max(), ROUNDING))
        begun = x, step, jnp.ones(()), residual(x + step), 0
        x, step, t, new, _ = lax.while_loop(lambda s: too_long(r, s), shorter, begun)
        better = norm(new) < norm(r)
        return (
            jnp.where(better, x + t * step, x),
            jnp.where(better, new, r),
            jnp.where(better, i + 1, _STEPS),
            better,
        )

    def unfinished(state):
        _, r, i, _ = state
        return (i < _STEPS) & (norm(r) > tolerance)

    x, r, *_ = lax.while_loop(unfinished, newton, (begin, residual(begin), 0, jnp.array(True)))
    x = lax.stop_gradient(x)
    step = solve(lax.stop_gradient(jax.jacfwd(residual)(x)), _residual(x, *given))
    fine = norm(r) <= 10 * tolerance
    x = x - jnp.where(fine, step, 0)
    return x[:3], jnp.exp(x[3]), fine & jnp.isfinite(x).all()


def _residual(
    x: Float[Array, "5"], sources: list[_Source], l2: Scalar, gamma: Scalar
) -> Float[Array, "5"]:
    """The equations of the fixed point at (α, log σ, log χ), scaled to be about 1 far from it."""
    alpha, sigma, chi = x[:3], jnp.exp(x[3]), jnp.exp(x[4])
    normal, normal_weights = np.polynomial.hermite_e.hermegauss(_NORMALS)
    normal = jnp.asarray(normal, x.dtype)
    normal_weights = jnp.asarray(normal_weights / normal_weights.sum(), x.dtype)
    pull, start, zeta, square = jnp.zeros(3), jnp.zeros(3), 0.0, 0.0
    for axes, points, offset, weights in sources:
        a = axes @ alpha
        spread = jnp.sqrt(sigma**2 + a[2] ** 2)
        mean = a[:2] @ points + a[2] * offset
        doubt = jax.nn.sigmoid(-_prox(mean[:, None] + spread * normal, chi))
        curvature = doubt * (1 - doubt)
        doubted = doubt @ normal_weights
        turned = weights @ ((curvature / (1 + chi * curvature)) @ normal_weights)
        u = jnp.concatenate([points, offset[None]])
        pull += ((weights * doubted * u).sum(1) - jnp.array([0.0, 0.0, 1.0]) * a[2] * turned) @ axes
        start += (weights * u).sum(1) @ axes / 2
        zeta += turned
        square += weights @ (doubt**2 @ normal_weights)
    scale = norm(lax.stop_gradient(start)) + jnp.sqrt(lax.stop_gradient(gamma)) / 4 + ROUNDING
    return jnp.concatenate(
        [
            (l2 * alpha - pull) / scale,
            jnp.stack(
                [
                    x[3] + jnp.log(l2 + zeta) - jnp.log(gamma * square) / 2,
                    x[4] + jnp.log(l2 + zeta) - jnp.log(gamma),
                ]
            ),
        ]
    )


def _prox(h: Float[Array, "..."], chi: Scalar) -> Float[Array, "..."]:
    """The x with x − χ σ(−x) = h.

    The left side is convex below 0 and concave above, so Newton from a start on the solution's side
    never passes it.
    """
    fixed_h, fixed_chi = lax.stop_gradient((h, chi))

    def step(x, h, chi):
        doubt = jax.nn.sigmoid(-x)
        return x - (x - chi * doubt - h) / (1 + chi * doubt * (1 - doubt))

    x = jnp.where(fixed_h > 0, fixed_h, jnp.minimum(fixed_h + fixed_chi, 0))
    x = lax.fori_loop(0, _PROX, lambda _, x: step(x, fixed_h, fixed_chi), x)
    doubt = lax.stop_gradient(jax.nn.sigmoid(-x))
    x = lax.stop_gradient(x)
    # Newton once more, for its derivatives.
    return x - (x - chi * doubt - h) / (1 + fixed_chi * doubt * (1 - doubt))


def solve(a: Float[Array, "n n"], b: Float[Array, " n"]) -> Float[Array, " n"]:
    """a⁻¹b by elimination with pivots; no LAPACK, which may hang in a loop (see `learn.ridge`)."""
    n = len(b)
    rows = jnp.concatenate([a, b[:, None]], 1)
    for i in range(n):
        pivot = i + jnp.argmax(jnp.abs(rows[i:, i]))
        swap = jnp.arange(n)
        swap = jnp.where(swap == i, pivot, jnp.where(swap == pivot, i, swap))
        rows = rows[swap]
        row = rows[i] / rows[i, i]
        rows = (rows - rows[:, i : i + 1] * row).at[i].set(row)
    return rows[:, n]
