"""One trajectory of self-training: T generations in a single lax.scan.

`trajectory` is the direct engine, which draws every feature. `follow` is what it has in common with
the matrix-free one: the same generations, on features of which fewer are drawn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from synthjax.mixture import data, pool
from synthjax.mixture.covariance import Covariance, times
from synthjax.mixture.data import Examples, Numbers, Sample
from synthjax.mixture.theory import agreement, place, test_agreement
from synthjax.protocol.keys import Stream, key, normal_rows
from synthjax.protocol.spec import Kind

STATUS = ("fine", "not_finite", "not_converged", "nothing_kept")
FINE, NOT_FINITE, NOT_CONVERGED, NOTHING_KEPT = range(4)


class Static(NamedTuple):
    """What a compiled trajectory is fixed to: kinds and shapes.

    Fields: `n`, `n_real`, `k` are lengths of arrays, at least the numbers of the same name;
    `names` are the kinds' names by family;
    `columns` is how many features of an example are drawn: all d of them, or, where `frame` is not
    0, as many as decide what is kept, and room for `columns` − `frame` more that a learner meets;
    generations `first` to `generations` are computed, and 0 where `first` is 1.
    """

    engine: Kind
    names: tuple[tuple[str, str], ...]
    features: Kind
    covariance: Kind
    initial: Kind
    generator: Kind
    verifier: Kind
    selection: Kind
    regime: Kind
    learner: Kind
    n: int
    d: int
    columns: int
    frame: int
    n_real: int
    k: int
    first: int
    generations: int
    keep_classifiers: bool

    @property
    def placed(self) -> bool:
        """Whether there is a classifier w₀; generators that do not ask for one begin without."""
        return "initial" in self.generator.reads

    @property
    def real(self) -> bool:
        """Whether w₀ is trained on real examples."""
        return self.placed and "n_real" in self.initial.reads

    @property
    def has_classifier(self) -> bool:
        """Whether the verifier has a direction v of its own."""
        return "error_correlation" in self.verifier.reads

    @property
    def parts(self) -> tuple[int, ...]:
        """Rows of the past: real examples, if they count, then those of every generation."""
        if not self.regime.call.past:
            return ()
        return (self.n_real * self.real, *[self.n] * self.generations)

    @property
    def replayed(self) -> bool:
        """Whether going on begins anew: what a learner met of the past is not saved."""
        return bool(self.parts and self.frame)

    @property
    def carried(self) -> int:
        """How many classifiers it takes to go on after the last generation: all, or the last."""
        return self.generations + 1 if self.parts and not self.frame else 1

    @property
    def coordinates(self) -> int:
        """Of a classifier to go on from: only its overlaps matter where there is a frame."""
        return self.frame or self.d


class Record(NamedTuple):
    """What is kept of each generation; every field has a leading axis t, `carried` one of its own.

    Overlap, verifier_overlap (with v) and norm are in the Σ inner product: with the angle of w* and
    v they are the Gram matrix of all that decides what comes after. Counts are of generation t's
    guesses, k for an example, before and after selection; 0 where there were none. `products`: how
    often a matrix-free learner asked for one. `carried`: see `Static.carried`.
    """

    accuracy: Float[Array, " t"]
    test_accuracy: Float[Array, " t"]
    overlap: Float[Array, " t"]
    verifier_overlap: Float[Array, " t"]
    norm: Float[Array, " t"]
    status: Int[Array, " t"]
    right: Int[Array, " t"]
    wrong: Int[Array, " t"]
    kept_right: Int[Array, " t"]
    kept_wrong: Int[Array, " t"]
    products: Int[Array, " t"]
    carried: Float[Array, "carried d"]
    classifier: Float[Array, "t d"] | None


# Columns beyond a frame that share a key: so numbers do not depend on how many there is room for.
COLUMNS = 16
COUNTED = ("status", "right", "wrong", "kept_right", "kept_wrong", "products")


class Before(NamedTuple):
    """What a trajectory goes on from: classifiers [`carried`, d] of generations before `first`.

    `status` is that of the last of them.
    """

    carried: Float[Array, "carried d"]
    status: Int[Array, ""]


class Learnt(NamedTuple):
    """What training gives: w, and the features that it came to know, if not all were known."""

    w: Float[Array, " columns"]
    converged: Bool[Array, ""]
    products: Int[Array, ""]
    x: Float[Array, "n columns"]
    memory: Any


class Steps(NamedTuple):
    """What an engine does its own way.

    Fields: `placed`, w₀ at theta_gen; `memory` of what was learnt, to begin with; `learn`, from a
    key, the sample and the memory.
    """

    placed: Float[Array, " columns"]
    memory: Any
    learn: Callable[[Key[Array, ""], Sample, Any], Learnt]


def trajectory(
    static: Static,
    numbers: Numbers,
    axes: Float[Array, "d d"] | None,
    seed: Int[Array, ""],
    index: Int[Array, ""],
    before: Before | None = None,
    any_of: Callable = jnp.any,
) -> Record:
    """Run trajectory `index` of a spec: w₀, then generate, verify, select, pool, learn, again.

    `axes` are the principal axes of a dense Σ. Pure, and the same alone or under vmap, at once or
    from `before` on. A generation that fails has a status and NaN from there on. `any_of` says
    whether a flag is set anywhere in the batch, and is for the other engines.
    """
    covariance = static.covariance.call(numbers.covariance_decay, static.d, axes)
    g = place(numbers.theta_gen, 0.0, 0.0)[1]

    def learn(key, sample, memory):
        w, converged = static.learner.call(key, numbers, sample)
        return Learnt(w, converged, jnp.zeros((), jnp.int32), sample.x, memory)

    placed = times(covariance.inverse_root, jnp.zeros(static.d).at[:3].set(g))
    return follow(static, numbers, covariance, seed, index, before, Steps(placed, (), learn))


def follow(
    static: Static,
    numbers: Numbers,
    covariance: Covariance,
    seed: Int[Array, ""],
    index: Int[Array, ""],
    before: Before | None,
    steps: Steps,
) -> Record:
    """A trajectory of any engine that draws examples. See `trajectory`."""
    regime = static.regime.call

    def stream(name: Stream, t):
        return key(seed, name, index, t)

    def real_examples():
        draw_key = stream(Stream.REAL, 0)
        z, y = _features(static, numbers, draw_key, static.n_real)
        weights = (jnp.arange(static.n_real) < numbers.n_real).astype(z.dtype)
        return Sample(times(covariance.root, z), y, weights)

    def remember(past, sample, t):
        return pool.put(past, sample, static.parts[0] + (t - 1) * static.n)

    def again(past, both):
        """The past is not saved: features and labels follow from the classifiers."""
        w, t = both
        return remember(past, _kept(static, numbers, covariance, stream, w, t)[0], t), None

    def generation(state, t):
        w, failed, past, memory = state
        sample, counts = _kept(static, numbers, covariance, stream, w, t)
        if regime.past:
            past = sample = remember(past, sample, t)
        if regime.subsample:
            chosen = pool.chosen(stream(Stream.SUBSAMPLE, t), past.weights, static.parts, numbers.n)
            # Where the past has its own columns to come, they are learnt in their place.
            sample = (
                past._replace(weights=past.weights * chosen)
                if static.frame
                else pool.taken(past, chosen, static.n)
            )
        w, converged, products, x, memory = steps.learn(stream(Stream.LEARN, t), sample, memory)
        if static.replayed:
            past = past._replace(x=x)
        status = _status(w, converged)
        status = jnp.where(sample.weights.sum() > 0, status, NOTHING_KEPT)
        status = jnp.where(failed > FINE, failed, status)
        broken = (status == NOT_FINITE) | (status == NOTHING_KEPT)
        w = jnp.where(broken, jnp.nan, w)
        counts = (jnp.where(failed == FINE, count, 0) for count in (*counts, products))
        record = _measure(static, numbers, covariance, w)._replace(
            **dict(zip(COUNTED, (status, *counts), strict=True))
        )
        return (w, jnp.where(broken, status, FINE), past, memory), (record, w)

    # Threefry's partitionable form computes every number twice over, for the sake of sharding one
    # array over devices, which no trajectory is: the other form draws normals in 2/3 of the time.
    with jax.default_matmul_precision("highest"), jax.threefry_partitionable(False):
        past = pool.empty(sum(static.parts), static.columns) if regime.past else None
        real = real_examples() if static.real and (before is None or regime.past) else None
        if regime.past and real is not None:
            past = pool.put(past, real, 0)
        memory = steps.memory
        if before is None:
            w, first = steps.placed, None
            if not static.placed:
                w = jnp.zeros(static.columns)
            elif static.real:
                sample = past if static.replayed else real
                w, converged, products, x, memory = steps.learn(
                    stream(Stream.LEARN, 0), sample, memory
                )
                if static.replayed:
                    past = past._replace(x=x)
                first = _status(w, converged), products
            first = _generation_0(static, numbers, covariance, w, first)
            failed = jnp.where(first.status == NOT_FINITE, NOT_FINITE, FINE)
        else:
            w, failed = before.carried[-1], before.status
            w = jnp.zeros(static.columns).at[: len(w)].set(w)
            failed = jnp.where(failed == NOT_CONVERGED, FINE, failed)
            if regime.past:
                ts = jnp.arange(1, static.first)
                past, _ = jax.lax.scan(again, past, (before.carried[:-1], ts))
        ts = jnp.arange(static.first, static.generations + 1)
        (last, *_), (rest, ws) = jax.lax.scan(generation, (w, failed, past, memory), ts)
    if before is None:
        rest = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
        ws = jnp.concatenate([w[None], ws])
    carried = ws if static.carried > 1 else last[None]
    return rest._replace(carried=carried[:, : static.coordinates])


def _features(
    static: Static, numbers: Numbers, key: Key[Array, ""], n: int
) -> tuple[Float[Array, "n columns"], Float[Array, " n"]]:
    """Whitened features and true labels. What is beyond a frame is noise, a few columns a key."""
    if not static.frame:
        return static.features.call(key, numbers, n, static.d)
    frame_key, noise_key = jax.random.split(key)
    z, y = static.features.call(frame_key, numbers, n, static.frame)
    more = -(-(static.columns - static.frame) // COLUMNS)
    keys = (jax.random.fold_in(noise_key, i) for i in range(more))
    z = jnp.concatenate([z, *(normal_rows(key, n, COLUMNS) for key in keys)], 1)
    return z[:, : static.columns], y


def _kept(
    static: Static,
    numbers: Numbers,
    covariance: Covariance,
    stream: Callable,
    w: Float[Array, " d"],
    t: Int[Array, ""],
) -> tuple[Sample, tuple[Int[Array, ""], ...]]:
    """What is kept of the guesses that w makes in generation t, with any fresh real examples.

    And how many guesses were right, wrong, kept and right, kept and wrong.
    """
    n, k = static.n, static.k
    z, y = _features(static, numbers, stream(Stream.FEATURES, t), n)
    examples = Examples(times(covariance.root, z), z, y, w, t)
    row = jnp.arange(n)
    fresh = jnp.zeros(n, bool)
    if static.regime.call.real:
        fresh = row < jnp.round(numbers.real_fraction * numbers.n)
    valid = (row < numbers.n) & ~fresh & (jnp.arange(k)[:, None] < numbers.k)

    def one_guess(j):
        generate, verify = (
            jax.random.fold_in(stream(name, t), j) for name in (Stream.GENERATE, Stream.VERIFY)
        )
        guesses = static.generator.call(generate, numbers, examples)
        return guesses, static.verifier.call(verify, numbers, examples, guesses)

    guesses, scores = jax.vmap(one_guess)(jnp.arange(k))
    keep = numbers.keep if "keep" in static.verifier.reads else None
    weights = static.selection.call(
        stream(Stream.SELECT, t), scores.astype(jnp.float32), valid, keep
    )
    right, kept = guesses == y, weights > 0
    counts = (right & valid, ~right & valid, right & kept, ~right & kept)
    counts = tuple(jnp.sum(count, dtype=jnp.int32) for count in counts)
    # At most one guess for each example is kept.
    labels = jnp.take_along_axis(guesses, jnp.argmax(weights, 0)[None], 0)[0]
    labels = jnp.where(fresh, y, labels)
    return Sample(examples.x, labels, jnp.where(fresh, 1.0, weights.sum(0))), counts


def _generation_0(
    static: Static,
    numbers: Numbers,
    covariance: Covariance,
    w: Float[Array, " columns"],
    trained: tuple[Int[Array, ""], Int[Array, ""]] | None,
) -> Record:
    """The record of w₀, with status and products if it was trained.

    A generator without a w₀ begins with 0, and its accuracy may be known.
    """
    record = _measure(static, numbers, covariance, w)
    if not static.placed:
        nan = jnp.full((), jnp.nan)
        known = first_accuracy(static.generator.call, numbers)
        record = record._replace(
            accuracy=known, test_accuracy=known, overlap=nan, verifier_overlap=nan, norm=nan
        )
        return record._replace(classifier=w * nan if static.keep_classifiers else None)
    if trained is not None:
        status, products = trained
        record = record._replace(status=status, products=products)
    return record


def first_accuracy(generator: Callable, numbers: Numbers) -> Float[Array, ""]:
    """How often a generator without a w₀ is right in generation 1; NaN for a user's own."""
    if generator is data.flip:
        return 1 - numbers.p
    if generator is data.flip_by_class:
        return 1 - (numbers.p_plus + numbers.p_minus) / 2
    return jnp.full((), jnp.nan)


def _status(w: Float[Array, " d"], converged: Float[Array, ""]) -> Int[Array, ""]:
    status = jnp.where(converged, FINE, NOT_CONVERGED)
    return jnp.where(jnp.isfinite(w).all(), status, NOT_FINITE)


def _measure(
    static: Static, numbers: Numbers, covariance: Covariance, w: Float[Array, " d"]
) -> Record:
    """The record of a classifier, from closed forms; status fine and no guesses counted."""
    u = times(covariance.root, w)
    norm = jnp.linalg.norm(u)
    v = place(numbers.theta_gen, numbers.theta_ver, numbers.error_correlation)[2]
    along_v = jnp.full((), jnp.nan)
    if static.has_classifier:
        along_v = u[:3] @ v / jnp.where(norm > 0, norm, jnp.nan)
    # Without a direction there is no angle, whatever arctan2 says.
    angle = jnp.where((u != 0).any(), jnp.arctan2(jnp.linalg.norm(u[1:]), u[0]), jnp.nan)
    zero = jnp.zeros((), jnp.int32)
    features = "teacher" if static.features.call is data.teacher else "mixture"
    return Record(
        accuracy=agreement(angle, features, numbers.signal),
        test_accuracy=test_agreement(angle, features, numbers.signal),
        overlap=jnp.cos(angle),
        verifier_overlap=along_v,
        norm=norm,
        status=zero,
        right=zero,
        wrong=zero,
        kept_right=zero,
        kept_wrong=zero,
        products=zero,
        carried=None,
        classifier=w if static.keep_classifiers else None,
    )
