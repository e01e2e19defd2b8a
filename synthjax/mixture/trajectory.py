"""One trajectory of self-training: T generations in a single lax.scan."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from synthjax.mixture.data import FEATURES, GENERATORS, Numbers, Sample
from synthjax.mixture.learn import LEARNERS
from synthjax.mixture.theory import agreement, place, test_agreement
from synthjax.mixture.verify import VERIFIERS
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.select import SELECTIONS

STATUS = ("fine", "not_finite", "not_converged", "nothing_kept")
FINE, NOT_FINITE, NOT_CONVERGED, NOTHING_KEPT = range(4)


class Static(NamedTuple):
    """What a compiled trajectory is fixed to: shapes and kinds."""

    features: str
    initial: str
    generator: str
    verifier: str
    selection: str
    regime: str
    learner: str
    n: int
    d: int
    n_real: int
    generations: int
    keep_classifiers: bool


class Record(NamedTuple):
    """What is kept of each generation; every field has a leading axis t = 0 … T.

    Counts are of generation t's guesses, before and after selection; 0 where there were none.
    """

    accuracy: Float[Array, " T+1"]
    test_accuracy: Float[Array, " T+1"]
    overlap: Float[Array, " T+1"]
    norm: Float[Array, " T+1"]
    status: Int[Array, " T+1"]
    right: Int[Array, " T+1"]
    wrong: Int[Array, " T+1"]
    kept_right: Int[Array, " T+1"]
    kept_wrong: Int[Array, " T+1"]
    classifier: Float[Array, "T+1 d"] | None


def trajectory(
    static: Static,
    numbers: Numbers,
    seed: Int[Array, ""],
    index: Int[Array, ""],
) -> Record:
    """Run trajectory `index` of a spec: w₀, then T times generate, verify, select, pool, learn.

    Pure, and the same alone or under vmap. A generation that fails has a status and NaN from
    there on.
    """
    draw = FEATURES[static.features].call
    guess = GENERATORS[static.generator].call
    verify = VERIFIERS[static.verifier].call
    select = SELECTIONS[static.selection].call
    pool = REGIMES[static.regime].call
    learn = LEARNERS[static.learner].call

    def stream(name: Stream, t):
        return key(seed, name, index, t)

    def generation(state, t):
        w, failed = state
        x, y = draw(stream(Stream.FEATURES, t), numbers, static.n, static.d)
        guesses = guess(stream(Stream.GENERATE, t), numbers, t, w, x, y)
        verdict = verify(stream(Stream.VERIFY, t), numbers, x, y, guesses)
        weights = select(verdict)
        w, converged = learn(pool(Sample(x, guesses, weights)), numbers.l2)
        status = jnp.where(converged, FINE, NOT_CONVERGED)
        status = jnp.where(jnp.isfinite(w).all(), status, NOT_FINITE)
        status = jnp.where(weights.sum() > 0, status, NOTHING_KEPT)
        status = jnp.where(failed > FINE, failed, status)
        broken = (status == NOT_FINITE) | (status == NOTHING_KEPT)
        w = jnp.where(broken, jnp.nan, w)
        right, kept, counted = guesses == y, weights > 0, failed == FINE
        counts = (right, ~right, right & kept, ~right & kept)
        counts = (jnp.sum(count & counted, dtype=jnp.int32) for count in counts)
        record = _measure(static, numbers, w)._replace(
            **dict(zip(Record._fields[4:9], (status, *counts), strict=True))
        )
        return (w, jnp.where(broken, status, FINE)), record

    # Threefry's partitionable form computes every number twice over, for the sake of sharding one
    # array over devices, which no trajectory is: the other form draws normals in 2/3 of the time.
    with jax.default_matmul_precision("highest"), jax.threefry_partitionable(False):
        w, first = _generation_0(static, numbers, draw, learn, stream)
        failed = jnp.where(first.status == NOT_FINITE, NOT_FINITE, FINE)
        ts = jnp.arange(1, static.generations + 1)
        _, rest = jax.lax.scan(generation, (w, failed), ts)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


def _generation_0(
    static: Static, numbers: Numbers, draw: Callable, learn: Callable, stream: Callable
) -> tuple[Float[Array, " d"], Record]:
    """w₀ and its record. A flip generator has no w₀; its labels are right with chance 1 − p."""
    if static.generator == "flip":
        w = jnp.zeros(static.d)
        nan = jnp.full((), jnp.nan)
        record = _measure(static, numbers, w)._replace(
            accuracy=1 - numbers.p, test_accuracy=1 - numbers.p, overlap=nan, norm=nan
        )
        return w, record._replace(classifier=w * nan if static.keep_classifiers else None)
    if static.initial == "angle":
        w = jnp.zeros(static.d).at[:3].set(place(numbers.theta_gen, 0.0, 0.0)[1])
        return w, _measure(static, numbers, w)
    x, y = draw(stream(Stream.REAL, 0), numbers, static.n_real, static.d)
    w, converged = learn(Sample(x, y, jnp.ones_like(y)), numbers.l2)
    status = jnp.where(converged, FINE, NOT_CONVERGED)
    status = jnp.where(jnp.isfinite(w).all(), status, NOT_FINITE)
    return w, _measure(static, numbers, w)._replace(status=status)


def _measure(static: Static, numbers: Numbers, w: Float[Array, " d"]) -> Record:
    """The record of a classifier, from closed forms; status fine and no guesses counted."""
    # Without a direction there is no angle, whatever arctan2 says.
    angle = jnp.where((w != 0).any(), jnp.arctan2(jnp.linalg.norm(w[1:]), w[0]), jnp.nan)
    zero = jnp.zeros((), jnp.int32)
    return Record(
        accuracy=agreement(angle, static.features, numbers.signal),
        test_accuracy=test_agreement(angle, static.features, numbers.signal),
        overlap=jnp.cos(angle),
        norm=jnp.linalg.norm(w),
        status=zero,
        right=zero,
        wrong=zero,
        kept_right=zero,
        kept_wrong=zero,
        classifier=w if static.keep_classifiers else None,
    )
