"""The last layer of a language model: logits, and what they say of given tokens.

Logits of a large vocabulary are most of what a loss has to hold. They are there a part at a time,
and computed once: what a loss is to them is known, so that their gradient is computed beside them
instead of later, from logits that were kept or computed again.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from synthjax.nn.products import flat, times
from synthjax.nn.sharding import constrain, pieces

LOGITS = 2**28  # that a device holds at a time: 1 GiB
OUT = ("rows", "", "vocabulary")  # their axes


def logits(x: Float[Array, "... w"], table: Float[Array, "v w"]) -> Float[Array, "... v"]:
    """x tableᵀ in float32, of factors in the dtype of `x`."""
    return constrain(times(x, table.astype(x.dtype), jnp.float32), *OUT)


def log_probs(
    x: Float[Array, "b t w"], table: Float[Array, "v w"], labels: Int[Array, "b t"]
) -> Float[Array, "b t"]:
    """Natural log-probability of each label."""

    def some(carry, part):
        x, labels = part
        return carry, _softmax(logits(x, table), labels)[0]

    return _in_parts(some, (), (x, labels), len(table))[1]


@jax.custom_vjp
def log_prob(
    x: Float[Array, "b t w"],
    table: Float[Array, "v w"],
    labels: Int[Array, "b t"],
    weights: Float[Array, "b t"],
) -> Float[Array, ""]:
    """The weighted sum of the labels' log-probabilities."""
    return jnp.sum(log_probs(x, table, labels) * weights)


def _with_gradient(x, table, labels, weights):
    def some(slope, part):
        x, labels, weights = part
        own, e, sums = _softmax(logits(x, table), labels)
        # Not by jax.grad, whose scatter reads and writes as much as all logits twice more on a GPU.
        told = labels[..., None] == jnp.arange(len(table))
        weights = weights[..., None]
        push = jnp.where(told, weights, 0) - e * (weights / sums)
        push = constrain(push.astype(x.dtype), *OUT)
        back = (flat(push) @ table.astype(x.dtype)).reshape(x.shape)
        more = jnp.matmul(flat(push).T, flat(x), preferred_element_type=slope.dtype)
        return slope + more, (own, constrain(back, "rows", "", ""))

    zero = constrain(jnp.zeros_like(table), "vocabulary", "width")
    parts = x, labels, weights
    slope, (own, back) = _in_parts(some, zero, parts, len(table))
    return jnp.sum(own * weights), (back, slope, own)


def _scaled(found, by):
    back, slope, own = found
    return (back * by).astype(back.dtype), (slope * by).astype(slope.dtype), None, own * by


log_prob.defvjp(_with_gradient, _scaled)


def _softmax(logits, labels):
    """Each label's log-probability, and the probability of all: e / sums."""
    most = logits.max(-1, keepdims=True)
    e = jnp.exp(logits - most)
    sums = e.sum(-1, keepdims=True)
    own = jnp.take_along_axis(logits, labels[..., None], -1) - most - jnp.log(sums)
    return own[..., 0], e, sums


def _in_parts(some, carry, rows, vocabulary: int):
    """Scan over parts of the columns, of which no device holds more than `LOGITS`."""
    b, t = rows[0].shape[:2]
    parts = -(-b * t * vocabulary // pieces((b, t, vocabulary), *OUT) // LOGITS)
    if parts <= 1:
        return some(carry, rows)
    size = -(-t // parts)

    def cut(leaf):
        rest = leaf.shape[2:]
        leaf = jnp.pad(leaf, [(0, 0), (0, size * parts - t), *((0, 0) for _ in rest)])
        return leaf.reshape(b, parts, size, *rest).swapaxes(0, 1)

    def join(leaf):
        return leaf.swapaxes(0, 1).reshape(b, -1, *leaf.shape[3:])[:, :t]

    carry, found = jax.lax.scan(some, carry, jax.tree.map(cut, rows))
    return carry, jax.tree.map(join, found)
