"""The Llama family: decoder-only transformers, with the names and layouts of Hugging Face.

Touvron et al., *Llama 2: open foundation and fine-tuned chat models*, 2023; with a bias on q, k and
v it is Qwen2, with a window Mistral. A parameter's path is its name in a Hugging Face file and its
array lies as it does there, [out, in], so that import and export change nothing.

Sequences may share a row: tokens attend to earlier ones of the same `segments` number, and 0 is
padding, on either side. Decoding is cached: `start` reads the prompts, which guesses share, and
`step` one token of every guess.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from synthjax.nn import head
from synthjax.nn.bind import Model, bind
from synthjax.nn.lora import Linear, Lora, joined
from synthjax.nn.products import for_each
from synthjax.nn.rotary import RopeScaling, Rotary, angles, frequencies, rotated
from synthjax.nn.sharding import constrain
from synthjax.nn.train import Loss

BLOCK = 128  # of queries that attend together, or a quarter of them all
Cache = dict[str, Array]
Prompts = tuple[Int[Array, "b s"], Int[Array, " b"]]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a model is built like.

    Fields: `feed_forward`, the width of that part; `kv_heads`, which query heads share in turn;
    `head`, the width of a head; `context`, tokens that it was made for; `window`, tokens to which
    one attends at most, 0 for all; `tied`: the output is the embedding; `qkv_bias`.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    feed_forward: int
    context: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    epsilon: float = 1e-5
    tied: bool = True
    qkv_bias: bool = False
    window: int = 0


def build(
    architecture: Architecture,
    dtype: jnp.dtype = jnp.float32,
    lora: Lora | None = None,
    remat: bool = False,
) -> Model:
    """The transformer with float32 parameters, which computes in `dtype`.

    Its methods: `logits`, `log_probs`, `log_prob`, `start`, `step` of `Llama`. `remat`: layers are
    computed again for their gradient, which takes less memory and a third more time. Adapters are
    parameters beside the matrix that they adapt, `lora_a` and `lora_b`.
    """
    return bind(lambda rngs: Llama(architecture, dtype, lora, remat, rngs))


def axes(module: str, name: str) -> tuple[str, ...]:
    """The names of a parameter's axes (see `nn.sharding`)."""
    outside, inside = {
        "embed_tokens": ("vocabulary", "width"),
        "lm_head": ("vocabulary", "width"),
        "o_proj": ("width", "heads"),
        "gate_proj": ("hidden", "width"),
        "up_proj": ("hidden", "width"),
        "down_proj": ("width", "hidden"),
    }.get(module, ("heads", "width") if module in ("q_proj", "k_proj", "v_proj") else ("", ""))
    return {
        "weight": (outside, inside),
        "bias": (outside,),
        "lora_a": ("rank", inside),
        "lora_b": (outside, "rank"),
    }.get(name, ())


class Batch(NamedTuple):
    """Rows of one sequence, padded after it, or of several, where there are `segments`.

    Fields: `tokens`; `told`, the weight of each token's loss, given those before it; `segments`,
    numbered from 1, 0 is padding; `positions` in the sequence.
    """

    tokens: Int[Array, "b t"]
    told: Float[Array, "b t"]
    segments: Int[Array, "b t"] | None = None
    positions: Int[Array, "b t"] | None = None


def loss(model: Model) -> Loss:
    """Of the tokens that are told; where adapters learn, the rest is fixed."""

    def summed(params, batch: Batch, fixed):
        params = params if fixed is None else joined(fixed, params)
        rows = batch.tokens, batch.segments, batch.positions
        return -model.apply(params, "log_prob", batch.told, *rows)

    return Loss(summed, lambda batch: jnp.sum(batch.told[:, 1:]))


class Llama(nnx.Module):
    """Logits of the next token."""

    def __init__(self, a: Architecture, dtype, lora: Lora | None, remat: bool, rngs: nnx.Rngs):
        self.a, self.dtype, self.remat = a, dtype, remat
        self.model = Decoder(a, dtype, lora, rngs)
        if not a.tied:
            self.lm_head = Linear(a.width, a.vocabulary, False, dtype, None, rngs)

    def logits(
        self,
        tokens: Int[Array, "b t"],
        segments: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t v"]:
        """Of the token after each, float32.

        Without `segments` a row is one sequence from its first column on (padding after it needs
        no mask). Positions count from a sequence's first token, which are needed where it is not
        the first of its row.
        """
        return self._out(self._hidden(tokens, segments, positions))

    def log_probs(
        self,
        tokens: Int[Array, "b t"],
        segments: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t-1"]:
        """Natural log-probability of every token but the first of a row, given those before it.

        Logits are never there all at once where they would take more of a device than
        `head.LOGITS`; for a gradient take `log_prob`.
        """
        x = self.model.norm(self._hidden(tokens, segments, positions)[:, :-1])
        return head.log_probs(x, self._table(), tokens[:, 1:])

    def log_prob(
        self,
        told: Float[Array, "b t"],
        tokens: Int[Array, "b t"],
        segments: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
    ) -> Float[Array, ""]:
        """The sum of `log_probs`, weighted; its gradient takes no logits twice."""
        x = self.model.norm(self._hidden(tokens, segments, positions)[:, :-1])
        return head.log_prob(x, self._table(), tokens[:, 1:], told[:, 1:])

    def start(self, source: Prompts, k: int, length: int):
        """Before the first of up to `length` tokens of k guesses after each prompt.

        Prompts, (tokens, how many there are), begin in column 0. The last token of each is not
        read: the first step takes it.
        Returns what the guesses share, with leading axis b, and what each has of its own: b k.
        """
        tokens, lengths = source
        there = jnp.arange(tokens.shape[1]) < lengths[:, None] - 1
        x = self.model.embed_tokens(tokens)
        rotary = self._rotary(jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape))
        shared, own = {"there": there, "lengths": lengths - 1}, {}
        shape = (len(tokens) * k, self.a.kv_heads, length, self.a.head)
        for i, layer in enumerate(self.model.layers):
            # Padding comes last: with what is causal it needs no mask of its own.
            x, (keys, shared[f"values_{i}"]) = layer.whole(x, None, rotary)
            shared[f"keys_{i}"] = keys.swapaxes(2, 3)  # as they are multiplied with
            for name in ("keys", "values"):
                empty = jnp.zeros(shape, self.dtype)
                own[f"{name}_{i}"] = constrain(empty, "rows", "heads", "", "")
        return shared, own

    def step(self, shared: Cache, own: Cache, tokens: Int[Array, "b k"], t: Int[Array, ""]):
        """Logits of token t + 1, float32, from token number t of every guess."""
        x = self.model.embed_tokens(tokens)
        position = shared["lengths"][:, None] + t
        rotary = self._rotary(jnp.broadcast_to(position, tokens.shape))
        column = jnp.arange(shared["there"].shape[1])
        read = shared["there"]
        if self.a.window:
            read &= column > position - self.a.window
        new = {}
        for i, layer in enumerate(self.model.layers):
            prompt = shared[f"keys_{i}"], shared[f"values_{i}"]
            cache = own[f"keys_{i}"], own[f"values_{i}"]
            x, (new[f"keys_{i}"], new[f"values_{i}"]) = layer.one(x, cache, t, prompt, read, rotary)
        return self._out(x), new

    def _hidden(self, tokens, segments, positions):
        if positions is None:
            there = jnp.ones_like(tokens) if segments is None else segments > 0
            positions = jnp.maximum(jnp.cumsum(there, 1) - 1, 0)
        rotary = self._rotary(positions)
        mask = None if segments is None else self._mask(segments)
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            whole = lambda x, layer=layer: layer.whole(x, mask, rotary)[0]  # noqa: E731
            x = (jax.checkpoint(whole) if self.remat else whole)(x)
        return x

    def _mask(self, segments: Int[Array, "b t"]) -> Bool[Array, "b 1 t t"]:
        """To what each token attends; one of padding to itself, so that nothing is divided by 0."""
        t = jnp.arange(segments.shape[1])
        causal = _causal(len(t), self.a.window)
        same = segments[:, :, None] == segments[:, None, :]
        there = (segments > 0)[:, None, :]
        return ((causal & same & there) | (t[:, None] == t))[:, None]

    def _rotary(self, positions: Int[Array, "b t"]) -> Rotary:
        a = self.a
        return angles(positions, frequencies(a.head, a.rope_theta, a.rope_scaling))

    def _table(self):
        return (self.model.embed_tokens if self.a.tied else self.lm_head).weight[...]

    def _out(self, x):
        return head.logits(self.model.norm(x), self._table())


def _causal(t: int, window: int) -> Bool[np.ndarray, "t t"]:
    past = np.arange(t)[:, None] - np.arange(t)
    return (past >= 0) & (past < window) if window else past >= 0


class Embedding(nnx.Module):
    """Symbols, [vocabulary, width]."""

    def __init__(self, vocabulary: int, width: int, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        self.weight = nnx.Param(0.02 * jax.random.normal(rngs.params(), (vocabulary, width)))

    def __call__(self, tokens: Int[Array, "..."]) -> Float[Array, "... w"]:
        """Embedded."""
        table = constrain(self.weight[...].astype(self.dtype), "vocabulary", "")
        return constrain(table[tokens], "rows", "", "")


class RMSNorm(nnx.Module):
    """Scaled to a root mean square of 1, in float32."""

    def __init__(self, a: Architecture, dtype):
        self.dtype, self.epsilon = dtype, a.epsilon
        self.weight = nnx.Param(jnp.ones(a.width))

    def __call__(self, x: Float[Array, "... w"]) -> Float[Array, "... w"]:
        """Normalised."""
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + self.epsilon)
        return self.weight[...].astype(self.dtype) * x.astype(self.dtype)


class Decoder(nnx.Module):
    """Everything but the output: Hugging Face's `model`."""

    def __init__(self, a: Architecture, dtype, lora, rngs):
        self.embed_tokens = Embedding(a.vocabulary, a.width, dtype, rngs)
        self.layers = nnx.List([Layer(a, dtype, lora, rngs) for _ in range(a.layers)])
        self.norm = RMSNorm(a, dtype)


class Layer(nnx.Module):
    """Self-attention and the gated feed-forward part (SwiGLU), residual both."""

    def __init__(self, a: Architecture, dtype, lora, rngs):
        self.self_attn = Attention(a, dtype, lora, rngs)
        self.mlp = FeedForward(a, dtype, lora, rngs)
        self.input_layernorm = RMSNorm(a, dtype)
        self.post_attention_layernorm = RMSNorm(a, dtype)

    def whole(self, x, mask, rotary):
        """All tokens at once, with their keys and values; no mask: what is causal."""
        told, cache = self.self_attn.whole(self.input_layernorm(x), mask, rotary)
        x = x + told
        return x + self.mlp(self.post_attention_layernorm(x)), cache

    def one(self, x, cache, t, prompt, read, rotary):
        """Token number t of every guess [b, k, w], and the cache with it."""
        told, cache = self.self_attn.one(self.input_layernorm(x), cache, t, prompt, read, rotary)
        x = x + told
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class FeedForward(nnx.Module):
    """W_down(silu(W_gate x) · W_up x)."""

    def __init__(self, a: Architecture, dtype, lora, rngs):
        self.gate_proj = Linear(a.width, a.feed_forward, False, dtype, lora, rngs)
        self.up_proj = Linear(a.width, a.feed_forward, False, dtype, lora, rngs)
        self.down_proj = Linear(a.feed_forward, a.width, False, dtype, lora, rngs)

    def __call__(self, x):
        """Applied."""
        x = jax.nn.silu(self.gate_proj(x)) * self.up_proj(x)
        return constrain(self.down_proj(constrain(x, "rows", "", "hidden")), "rows", "", "")


class Attention(nnx.Module):
    """Attention whose query heads share keys and values in groups (Ainslie et al., *GQA*, 2023)."""

    def __init__(self, a: Architecture, dtype, lora, rngs):
        self.a = a
        for name, heads in (("q_proj", a.heads), ("k_proj", a.kv_heads), ("v_proj", a.kv_heads)):
            part = Linear(a.width, heads * a.head, a.qkv_bias, dtype, lora, rngs)
            setattr(self, name, part)
        self.o_proj = Linear(a.heads * a.head, a.width, False, dtype, lora, rngs)

    def _qkv(self, x, rotary):
        """Queries, keys and values of tokens [..., h, d], rotated."""
        parts = (part(x) for part in (self.q_proj, self.k_proj, self.v_proj))
        parts = (part.reshape(*x.shape[:-1], -1, self.a.head) for part in parts)
        q, k, v = (constrain(part, "rows", "", "heads", "") for part in parts)
        return rotated(q, rotary), rotated(k, rotary), v

    def whole(self, x: Float[Array, "b t w"], mask: Bool[Array, "b 1 t t"] | None, rotary):
        """All tokens at once, and keys and values as [b, kv, t, d]."""
        q, k, v = self._qkv(x, rotary)
        gpu = jax.default_backend() == "gpu" and x.dtype == jnp.bfloat16 and self.a.head % 8 == 0
        causal = mask is None and not self.a.window
        if gpu and (causal or x.shape[1] % 2 == 0):  # cuDNN's has no gradient of an odd mask
            how = dict(is_causal=True)
            if not causal:
                how = dict(mask=_causal(x.shape[1], self.a.window) if mask is None else mask)
            told = jax.nn.dot_product_attention(q, k, v, implementation="cudnn", **how)
            k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        else:
            mask = _causal(x.shape[1], self.a.window) if mask is None else mask[:, :, None]
            k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
            told = self._attended(q, k, v, mask)
        return self._out(told.reshape(*x.shape[:2], -1)), (k, v)

    def _out(self, told):
        return constrain(self.o_proj(told), "rows", "", "")

    def _attended(self, q, k, v, mask):
        """Queries [b, t, h, d] to keys and values [b, kv, t, d], where `mask`.

        Written out with the heads outside, which is faster on a CPU (see `nn.seq2seq`), and in
        blocks of queries, none of which meets the keys that come after it: of four, 5/8 of all.
        """
        size = max(BLOCK, -(-q.shape[1] // 4))
        blocks = []
        for i in range(0, q.shape[1], size):
            end = i + size
            keys, values = k[:, :, :end], v[:, :, :end]
            blocks.append(self._block(q[:, i:end], keys, values, mask[..., i:end, :end]))
        return jnp.concatenate(blocks, 1)

    def _block(self, q, k, v, mask):
        b, t = q.shape[:2]
        q = q.reshape(b, t, self.a.kv_heads, -1, self.a.head).transpose(0, 2, 3, 1, 4)
        scores = for_each(q, k.swapaxes(2, 3)).astype(jnp.float32)
        scores = jnp.where(mask, scores / math.sqrt(self.a.head), -jnp.inf)
        return for_each(jax.nn.softmax(scores).astype(v.dtype), v).transpose(0, 3, 1, 2, 4)

    def one(self, x: Float[Array, "b k w"], cache, t, prompt, read: Bool[Array, "b s"], rotary):
        """A token of every guess: it attends to the prompt, where `read`, and to its guess."""
        a = self.a
        q, *new = self._qkv(x, rotary)
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, one.reshape(*old.shape[:2], 1, a.head), t, 2)
            for old, one in zip(cache, new, strict=True)
        )
        past = jnp.arange(keys.shape[2])
        written = past <= t
        if a.window:
            written &= past > t - a.window
        b, k = x.shape[:2]
        q = q.reshape(b * k, a.kv_heads, -1, a.head)

        def by_source(x):
            return x.reshape(b, k, *x.shape[1:]).swapaxes(1, 2)

        scores = [
            jnp.where(where, part.astype(jnp.float32), -jnp.inf)
            for where, part in (
                (read[:, None, None, None], for_each(by_source(q), prompt[0])),
                (written, by_source(jnp.matmul(q, keys.swapaxes(2, 3)))),
            )
        ]
        scores = jnp.concatenate(scores, -1) / math.sqrt(a.head)
        weights = jax.nn.softmax(scores).astype(values.dtype)
        s = prompt[1].shape[2]
        own = weights[..., s:].swapaxes(1, 2).reshape(*q.shape[:3], -1)
        told = for_each(weights[..., :s], prompt[1]) + by_source(jnp.matmul(own, values))
        return self._out(told.swapaxes(1, 2).reshape(b, k, -1)), (keys, values)
