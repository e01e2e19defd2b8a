"""Guesses of a sequence model: greedy, beam search and sampling, k for every source, inside jit.

The model starts with `start(source, k, length)`, goes on with `step(shared, own, tokens, t)`, as
`seq2seq.Seq2Seq` and `llama.Llama` do; `own` has the leading axis b k, the guesses of a source one
after another (XLA copies caches every step that it would have to reshape, and an axis k = 1 is
that), and follows its guess. A guess that has ended is kept as it is, and decoding stops when all
have ended. Its score is its log-probability, of EOS too, with no penalty for its length.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from synthjax.nn.bind import Model, Params

Source = Any  # whatever the model reads, arrays with leading axis b


class Symbols(NamedTuple):
    """Ids of the symbols with a meaning of their own.

    Fields: `pad`, −1 where there is none, which nothing guesses; `bos`, after which guesses begin:
    one, or another for each source; `eos`, with which they end: one, or several.
    """

    pad: int
    bos: int | Int[Array, "b 1"]
    eos: int | tuple[int, ...]


class Guesses(NamedTuple):
    """k guesses for each source; of a beam search the most probable first.

    Fields: `tokens` after BOS, with EOS and then PAD; `log_prob`, natural; `ended`, whether EOS
    came in time. Where there are fewer sequences than guesses, −∞ marks those that are none.
    """

    tokens: Int[Array, "b k t"]
    log_prob: Float[Array, "b k"]
    ended: Bool[Array, "b k"]


def beam_search(
    model: Model, params: Params, source: Source, k: int, symbols: Symbols, length: int
) -> Guesses:
    """The k most probable of what is met when at each token the k best beginnings are kept.

    Up to `length` tokens, EOS among them. k = 1 is greedy decoding.
    """
    b = _rows(source)

    def begin():
        return jnp.full((b, k), -jnp.inf).at[:, 0].set(0)

    def choose(t, log_probs, found: Guesses):
        vocabulary = log_probs.shape[-1]
        scores = found.log_prob[..., None] + log_probs
        best, at = jax.lax.top_k(scores.reshape(b, -1), k)
        return at // vocabulary if k > 1 else None, at % vocabulary, best

    return _decoded(model, params, source, k, symbols, length, begin(), choose)


def sample(
    model: Model,
    params: Params,
    source: Source,
    k: int,
    symbols: Symbols,
    length: int,
    keys: Key[Array, " b"],
    temperature: Float[Array, ""] | float = 1.0,
    top_p: Float[Array, ""] | float | None = None,
) -> Guesses:
    """k guesses at random for each source, by a key for each source.

    Tokens have probabilities ∝ p^(1/temperature), of the fewest most probable ones that make up
    `top_p` of that (Holtzman et al., *The curious case of neural text degeneration*, 2020) or of
    all. `log_prob` is the model's own, at temperature 1.
    """

    def choose(t, log_probs, found: Guesses):
        logits = log_probs / temperature
        if top_p is not None:
            logits = _nucleus(logits, top_p)
        drawn = jax.vmap(
            lambda key: jax.random.gumbel(jax.random.fold_in(key, t), logits.shape[1:])
        )(keys)
        token = jnp.argmax(logits + drawn, -1)
        own = jnp.take_along_axis(log_probs, token[..., None], -1)[..., 0]
        return None, token, found.log_prob + own

    zero = jnp.zeros((_rows(source), k))
    return _decoded(model, params, source, k, symbols, length, zero, choose)


def _nucleus(logits: Float[Array, "b k v"], top_p) -> Float[Array, "b k v"]:
    """−∞ but for the fewest most probable tokens whose probabilities sum to `top_p` or more."""
    chance = jax.nn.softmax(logits)
    order = jnp.argsort(-chance, axis=-1)
    ranked = jnp.take_along_axis(chance, order, -1)
    before = jnp.cumsum(ranked, -1) - ranked
    kept = jnp.take_along_axis(before < top_p, jnp.argsort(order, -1), -1)
    return jnp.where(kept, logits, -jnp.inf)


def _rows(source) -> int:
    return len(jax.tree.leaves(source)[0])


def _decoded(model, params, source, k, symbols, length, scores, choose) -> Guesses:
    """`choose` gives each guess's parent (None: itself), its token and its score."""
    b = _rows(source)
    eos = jnp.atleast_1d(jnp.asarray(symbols.eos))
    shared, own = model.apply(params, "start", source, k, length)

    def alive(state):
        t, _, _, found = state
        return (t < length) & ~(found.ended | jnp.isneginf(found.log_prob)).all()

    def one_token(state):
        t, last, own, found = state
        logits, own = model.apply(params, "step", shared, own, last, t)
        vocabulary = jnp.arange(logits.shape[-1])
        log_probs = jnp.where(vocabulary == symbols.pad, -jnp.inf, jax.nn.log_softmax(logits))
        # What has ended goes on with PAD, at no cost.
        resting = jnp.where(vocabulary == max(symbols.pad, 0), 0.0, -jnp.inf)
        log_probs = jnp.where(found.ended[..., None], resting, log_probs)
        parent, token, score = choose(t, log_probs, found)

        def follow(leaf):
            each = leaf.reshape(b, k, -1)
            return jnp.take_along_axis(each, parent[..., None], 1).reshape(leaf.shape)

        if parent is not None:
            own, found = jax.tree.map(follow, own), jax.tree.map(follow, found)
        token = jnp.where(found.ended, symbols.pad, token)
        tokens = jax.lax.dynamic_update_slice_in_dim(found.tokens, token[..., None], t, 2)
        found = Guesses(tokens, score, found.ended | jnp.isin(token, eos))
        return t + 1, token, own, found

    first = jnp.broadcast_to(jnp.asarray(symbols.bos, jnp.int32), (b, k))
    nothing = jnp.full((b, k, length), symbols.pad, jnp.int32)
    state = (jnp.int32(0), first, own, Guesses(nothing, scores, jnp.zeros((b, k), bool)))
    return jax.lax.while_loop(alive, one_token, state)[3]
