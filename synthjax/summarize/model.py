"""A language model and what it is asked, compiled once for each length."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped
from jaxtyping import Array, Float, Int, Key

from synthjax import gathered
from synthjax.nn import decode, llama, sharding, train
from synthjax.nn.bind import Model, Params
from synthjax.nn.decode import Guesses
from synthjax.nn.llama import Architecture
from synthjax.nn.lora import Lora
from synthjax.nn.train import Schedule, Trainer

Host = np.ndarray
NONE = -1  # what fills up guesses that have ended; no token's id


class Language(NamedTuple):
    """A model and how it is used; hashable.

    Fields: `eos`, the tokens with which a text ends; `precision` of what is computed; `remat` where
    it is trained, to save memory.
    """

    architecture: Architecture
    eos: tuple[int, ...]
    precision: str = "float32"
    remat: bool = False


@functools.cache
def build(language: Language, lora: Lora | None = None) -> Model:
    """The model without its parameters."""
    dtype = jnp.dtype(language.precision)
    return llama.build(language.architecture, dtype, lora, language.remat)


@functools.cache
def trainer(language: Language, lora: Lora | None, schedule: Schedule) -> Trainer:
    """How it is trained."""
    return train.trainer(llama.loss(build(language, lora)), schedule)


@functools.cache
def beam_program(language: Language, k: int, length: int) -> Wrapped:
    """What `generate` runs without keys, jitted: `nn.decode.beam_search`, greedy where k = 1.

    Of parameters, prompts [b, s] with their lengths [b], and the last token of each [b, 1].
    """
    model = build(language)

    def beam(params, tokens, lengths, last):
        symbols = decode.Symbols(NONE, last, language.eos)
        params = _cast(language, params)
        return decode.beam_search(model, params, (tokens, lengths), k, symbols, length)

    return jax.jit(beam)


@functools.cache
def sample_program(language: Language, k: int, length: int, nucleus: bool) -> Wrapped:
    """What `generate` runs with keys, jitted: `nn.decode.sample`; `nucleus`: top_p is read.

    Of what `beam_program` takes, and the data of a threefry key for each prompt, uint32 [b, 2],
    temperature and top_p.
    """
    model = build(language)

    def sample(params, tokens, lengths, last, keys, temperature, top_p):
        symbols = decode.Symbols(NONE, last, language.eos)
        keys = jax.random.wrap_key_data(keys, impl="threefry2x32")
        params, top_p = _cast(language, params), top_p if nucleus else None
        source = tokens, lengths
        return decode.sample(model, params, source, k, symbols, length, keys, temperature, top_p)

    return jax.jit(sample)


def generate(
    language: Language,
    params: Params,
    mesh: Mesh,
    prompts: Sequence[Sequence[int]],
    k: int,
    length: int,
    keys: Key[Array, " b"] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    columns: int | None = None,
) -> Guesses:
    """k texts of up to `length` tokens after each prompt, on the host.

    Greedy (k = 1) or beam search without keys, at random with a key for each prompt. Tokens after
    an end are `NONE`. Prompts are padded to `columns`, for each of which a program is compiled.
    """
    count = len(prompts)
    tokens, lengths = padded(prompts, columns or bucket(max(map(len, prompts))))
    last = tokens[np.arange(count), lengths - 1][:, None]
    rows = [tokens, lengths, last]
    if keys is None:
        best = sharding.on(mesh, beam_program(language, k, length))
        found = best(params, *(sharding.spread(mesh, row) for row in rows))
    else:
        rows.append(np.asarray(jax.random.key_data(keys)))
        asked = [sharding.spread(mesh, row) for row in rows]
        drawn = sharding.on(mesh, sample_program(language, k, length, top_p < 1))
        found = drawn(params, *asked, np.float32(temperature), np.float32(top_p))
    return Guesses(*(gathered(leaf)[:count] for leaf in found))


def log_probs(
    language: Language,
    params: Params,
    mesh: Mesh,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    columns: int | None = None,
) -> Float[Host, " b"]:
    """Natural log-probability of each target after its prompt, as a sum over its tokens."""
    rows = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
    tokens, lengths = padded(rows, columns or bucket(max(map(len, rows))))
    column = np.arange(tokens.shape[1])[None]
    first = np.array([len(prompt) for prompt in prompts])[:, None]
    told = (column >= first) & (column < lengths[:, None])
    asked = sharding.spread(mesh, tokens), sharding.spread(mesh, told)
    found = sharding.on(mesh, _log_probs(language))(params, *asked)
    return gathered(found)[: len(prompts)]


def logits(
    language: Language,
    params: Params,
    mesh: Mesh,
    tokens: Int[Host, "b t"],
    mask: Int[Host, "b t"],
) -> Float[Host, "b t v"]:
    """Of the token after each, float32; `mask` is 0 for padding, on either side."""
    mask = np.asarray(mask).astype(np.int32)
    asked = sharding.spread(mesh, np.asarray(tokens, np.int32)), sharding.spread(mesh, mask)
    return gathered(sharding.on(mesh, _logits(language))(params, *asked))[: len(tokens)]


def bucket(length: int) -> int:
    """A length, a little larger, of which there are few: 2^i or 3 2^i, 16 at least."""
    size = 16
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def padded(rows: Sequence[Sequence[int]], length: int) -> tuple[Int[Host, "b t"], Int[Host, " b"]]:
    """Sequences from column 0 on, 0 after them, and their lengths."""
    found = np.zeros((len(rows), length), np.int32)
    for at, row in enumerate(rows):
        found[at, : len(row)] = row
    return found, np.array([len(row) for row in rows], np.int32)


def _cast(language: Language, params: Params) -> Params:
    """In what is computed, once and not with every token."""
    return jax.tree.map(lambda leaf: leaf.astype(language.precision), params)


@functools.cache
def _log_probs(language: Language):
    model = build(language)

    def log_probs(params, tokens, told):
        return jnp.sum(model.apply(params, "log_probs", tokens) * told[:, 1:], -1)

    return jax.jit(log_probs)


@functools.cache
def _logits(language: Language):
    model = build(language)
    return jax.jit(lambda params, tokens, mask: model.apply(params, "logits", tokens, mask))
