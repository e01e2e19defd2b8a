"""The encoder–decoder transformer (Vaswani et al., *Attention is all you need*, 2017).

Decoding is cached: the encoder runs once, the decoder's keys and values of the tokens so far are
kept. Guesses for one input share what the encoder says of it.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from synthjax.nn.bind import Model, bind
from synthjax.nn.products import flat, mapped
from synthjax.nn.sharding import constrain
from synthjax.nn.train import Loss

Cache = dict[str, Array]
ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a transformer is built like.

    Fields: `vocabulary` symbols, of which `pad` is none; `source_length`, `target_length` tokens at
    most, of which each has a learned position; `feed_forward`, times the width; `pre_norm`: layers
    are normalised before each part (and once at the end) and not after; `tied`: the decoder's
    output is its embedding.
    """

    vocabulary: int
    source_length: int
    target_length: int
    pad: int = 0
    width: int = 256
    heads: int = 8
    encoder_layers: int = 4
    decoder_layers: int = 1
    feed_forward: int = 4
    activation: str = "gelu"
    pre_norm: bool = True
    tied: bool = True


# The published model (Charton 2022): 28.7 million parameters with P1000 and all its positions.
LAWT = dict(
    width=512,
    heads=8,
    encoder_layers=6,
    decoder_layers=1,
    feed_forward=4,
    activation="relu",
    pre_norm=False,
    tied=True,
)


def build(architecture: Architecture, dtype: jnp.dtype = jnp.float32) -> Model:
    """The transformer with float32 parameters, which computes in `dtype`.

    Its methods: `encode`, `logits`, `start`, `step` of `Seq2Seq`.
    """
    return bind(lambda rngs: Seq2Seq(architecture, dtype, rngs))


def axes(module: str, name: str) -> tuple[str, ...]:
    """The names of a parameter's axes (see `nn.sharding`)."""
    inside, outside = {
        "symbols": ("vocabulary", "width"),
        "positions": ("", "width"),
        "qkv": ("width", "heads"),
        "ask": ("width", "heads"),
        "tell": ("width", "heads"),
        "mixed": ("heads", "width"),
        "told": ("heads", "width"),
        "up": ("width", "hidden"),
        "down": ("hidden", "width"),
        "output": ("width", "vocabulary"),
    }.get(module, ("", ""))
    return {"kernel": (inside, outside), "embedding": (inside, outside), "bias": (outside,)}.get(
        name, ()
    )


class Batch(NamedTuple):
    """Token ids; `target` from BOS to EOS, both padded."""

    source: Int[Array, "b s"]
    target: Int[Array, "b t"]


def loss(model: Model, pad: int) -> Loss:
    """Of the target's tokens after BOS."""

    def summed(params, batch: Batch, fixed):
        logits = model.apply(params, "logits", batch.source, batch.target[:, :-1])
        labels = batch.target[:, 1:]
        found = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(found * (labels != pad))

    return Loss(summed, lambda batch: jnp.sum(batch.target[:, 1:] != pad))


class Seq2Seq(nnx.Module):
    """Logits of target tokens given a source."""

    def __init__(self, a: Architecture, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.a, self.dtype = a, dtype
        self.source = Embedding(a, a.source_length, dtype, rngs)
        self.target = Embedding(a, a.target_length, dtype, rngs)
        self.encoder = nnx.List([Layer(a, False, dtype, rngs) for _ in range(a.encoder_layers)])
        self.decoder = nnx.List([Layer(a, True, dtype, rngs) for _ in range(a.decoder_layers)])
        if a.pre_norm:
            self.encoder_norm = _norm(a, dtype, rngs)
            self.decoder_norm = _norm(a, dtype, rngs)
        if a.tied:
            self.bias = nnx.Param(jnp.zeros(a.vocabulary))
        else:
            self.output = Linear(a.width, a.vocabulary, dtype=dtype, rngs=rngs)

    def encode(self, source: Int[Array, "b s"]) -> tuple[Float[Array, "b s w"], Bool[Array, "b s"]]:
        """What the encoder says of each token, and which tokens there are."""
        there = source != self.a.pad
        x = self.source(source)
        for layer in self.encoder:
            x = layer.whole(x, there[:, None, None, :])
        return self.encoder_norm(x) if self.a.pre_norm else x, there

    def logits(self, source: Int[Array, "b s"], target: Int[Array, "b t"]) -> Float[Array, "b t v"]:
        """Of the token after each of `target`, float32."""
        memory, there = self.encode(source)
        x = self.target(target)
        t = jnp.arange(target.shape[1])
        causal = (t[:, None] >= t)[None, None]
        for layer in self.decoder:
            x = layer.whole(x, causal, layer.read(memory), there[:, None, None, :])
        return self._out(x)

    def start(self, source: Int[Array, "b s"], k: int, length: int) -> tuple[Cache, Cache]:
        """Before the first of up to `length` tokens of k guesses for each source.

        Returns what the guesses share, with leading axis b, and what each has of its own: b k.
        """
        memory, there = self.encode(source)
        a, (b, head) = self.a, (len(source), self.a.width // self.a.heads)
        shared = {"there": there}
        own = {}
        for i, layer in enumerate(self.decoder):
            shared[f"keys_{i}"], shared[f"values_{i}"] = layer.read(memory)
            for name in ("keys", "values"):
                empty = jnp.zeros((b * k, a.heads, length, head), self.dtype)
                own[f"{name}_{i}"] = constrain(empty, "rows", "heads", "", "")
        return shared, own

    def step(
        self, shared: Cache, own: Cache, tokens: Int[Array, "b k"], t: Int[Array, ""]
    ) -> tuple[Float[Array, "b k v"], Cache]:
        """Logits of token t + 1, float32, from token number t of every guess."""
        x = self.target(tokens, t)
        past = jnp.arange(own["keys_0"].shape[2]) <= t
        new = {}
        for i, layer in enumerate(self.decoder):
            memory = shared[f"keys_{i}"], shared[f"values_{i}"]
            cache = own[f"keys_{i}"], own[f"values_{i}"]
            x, (new[f"keys_{i}"], new[f"values_{i}"]) = layer.one(
                x, cache, t, past, memory, shared["there"][:, None, None, :]
            )
        return self._out(x), new

    def _out(self, x):
        if self.a.pre_norm:
            x = self.decoder_norm(x)
        if self.a.tied:
            table = self.target.symbols.embedding[...].astype(self.dtype)
            x = (x @ table.T).astype(jnp.float32) + self.bias[...]
        else:
            x = self.output(x).astype(jnp.float32)
        return constrain(x, "rows", "", "vocabulary")


def _norm(a, dtype, rngs):
    return nnx.LayerNorm(a.width, dtype=dtype, rngs=rngs)


class Linear(nnx.Linear):
    """A map with a bias."""

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        """Of every row."""
        kernel, bias = (one[...].astype(self.dtype) for one in (self.kernel, self.bias))
        return mapped(flat(x), kernel).reshape(*x.shape[:-1], -1) + bias


class Embedding(nnx.Module):
    """Symbols and their positions."""

    def __init__(self, a: Architecture, length: int, dtype, rngs):
        small = nnx.initializers.normal(a.width**-0.5)
        self.symbols = nnx.Embed(
            a.vocabulary, a.width, embedding_init=small, dtype=dtype, rngs=rngs
        )
        self.positions = nnx.Embed(length, a.width, embedding_init=small, dtype=dtype, rngs=rngs)
        self.norm = None if a.pre_norm else _norm(a, dtype, rngs)

    def __call__(self, tokens: Int[Array, "b t"], at: Int[Array, ""] | None = None):
        """Embedded; the second axis is time, or, where the time is `at`, guesses."""
        at = jnp.arange(tokens.shape[1]) if at is None else at
        symbols = constrain(
            self.symbols.embedding[...].astype(self.symbols.dtype), "vocabulary", ""
        )
        positions = constrain(self.positions.embedding[...].astype(self.positions.dtype), "", "")
        x = constrain(symbols[tokens] + positions[at], "rows", "", "")
        return x if self.norm is None else self.norm(x)


class Layer(nnx.Module):
    """Self-attention, attention to the encoder where it decodes, feed-forward; residual each."""

    def __init__(self, a: Architecture, decodes: bool, dtype, rngs):
        self.a = a
        linear = dict(dtype=dtype, rngs=rngs)
        self.qkv = Linear(a.width, 3 * a.width, **linear)
        self.mixed = Linear(a.width, a.width, **linear)
        self.up = Linear(a.width, a.feed_forward * a.width, **linear)
        self.down = Linear(a.feed_forward * a.width, a.width, **linear)
        self.norms = nnx.List([_norm(a, dtype, rngs) for _ in range(2 + decodes)])
        if decodes:
            self.ask = Linear(a.width, a.width, **linear)
            self.tell = Linear(a.width, 2 * a.width, **linear)
            self.told = Linear(a.width, a.width, **linear)

    def read(self, memory: Float[Array, "b s w"]) -> tuple[Array, Array]:
        """Keys and values of what the encoder said."""
        return self._heads(self.tell, memory, 2)

    def whole(self, x, mask, memory=None, there=None):
        """All tokens at once. Attention is where the mask is True: [b, 1, queries, keys]."""

        def attend(x):
            q, k, v = self._heads(self.qkv, x, 3)
            return self.mixed(_attended(q, k, v, mask))

        x = self._residual(0, attend, x)
        return self._rest(x, memory, there)

    def one(self, x, cache, t, past, memory, there):
        """Token number t of every guess [b, k, w], and the cache with it."""
        kept = None

        def attend(x):
            nonlocal kept
            parts = self._heads(self.qkv, x[:, :, None], 3)
            q, *new = (part.reshape(-1, *part.shape[2:]) for part in parts)
            kept = tuple(
                jax.lax.dynamic_update_slice_in_dim(old, one, t, 2)
                for old, one in zip(cache, new, strict=True)
            )
            return self.mixed(_attended(q, *kept, past).reshape(x.shape))

        x = self._residual(0, attend, x)
        return self._rest(x, memory, there), kept

    def _rest(self, x, memory, there):
        def attend(x):
            return self.told(_attended(*self._heads(self.ask, x, 1), *memory, there))

        if memory is not None:
            x = self._residual(1, attend, x)
        activation = ACTIVATIONS[self.a.activation]

        def feed_forward(x):
            return self.down(constrain(activation(self.up(x)), "rows", "", "hidden"))

        return self._residual(-1, feed_forward, x)

    def _residual(self, i: int, part: Callable, x):
        norm = self.norms[i]
        told = constrain(part(norm(x) if self.a.pre_norm else x), "rows", "", "")
        return x + told if self.a.pre_norm else norm(x + told)

    def _heads(self, linear: nnx.Linear, x: Float[Array, "... t w"], parts: int):
        """What a map that holds `parts` maps makes of x, each by heads, [..., h, t, d].

        Its columns are taken by heads before they are applied, so that heads can be split.
        """
        h, dtype = self.a.heads, linear.dtype
        kernel = constrain(linear.kernel[...].astype(dtype), "", "")
        kernel = constrain(kernel.reshape(len(kernel), parts, h, -1), "", "", "heads", "")
        bias = linear.bias[...].astype(dtype).reshape(parts, h, -1)
        y = mapped(flat(x), kernel).reshape(*x.shape[:-1], *bias.shape) + bias
        inner = [""] * (x.ndim - 2)
        return tuple(
            constrain(one.squeeze(-3).swapaxes(-3, -2), "rows", *inner, "heads", "", "")
            for one in jnp.split(y, parts, -3)
        )


def _attended(q, k, v, mask):
    """Attention of queries [..., h, t, d] to keys and values [..., h, s, d], where `mask`.

    Returns [..., t, h d]. Written out with the heads outside: on a CPU
    `jax.nn.dot_product_attention`, which has them inside, takes 1.4 times as long for whole
    sequences and six times for a single query.
    """
    scores = jnp.einsum("...qd,...sd->...qs", q, k).astype(jnp.float32)
    scores = jnp.where(mask, scores / np.sqrt(q.shape[-1]), -jnp.inf)
    weights = jax.nn.softmax(scores).astype(v.dtype)
    x = jnp.einsum("...qs,...sd->...qd", weights, v).swapaxes(-3, -2)
    return x.reshape(*x.shape[:-2], -1)
