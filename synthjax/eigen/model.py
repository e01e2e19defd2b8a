"""The transformer of a spec and what it is asked, compiled once for a whole sweep."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.stages import Wrapped
from jaxtyping import Array, Bool, Float, Int, Key

from synthjax import gathered
from synthjax.eigen.data import lengths, read
from synthjax.eigen.spec import Spec
from synthjax.eigen.tokens import BOS, ENCODINGS, EOS, PAD, Encoding
from synthjax.nn import decode, seq2seq, sharding, train
from synthjax.nn.bind import Model, Params
from synthjax.nn.decode import Guesses
from synthjax.nn.seq2seq import Architecture
from synthjax.nn.train import Schedule, Trainer

Host = np.ndarray
SYMBOLS = decode.Symbols(PAD, BOS, EOS)


class Language(NamedTuple):
    """How matrices and spectra are written, and the model that reads and writes them; hashable."""

    encoding: str
    low: int
    high: int
    architecture: Architecture
    precision: str = "float32"


def language_of(spec: Spec) -> Language:
    """How a spec writes, and the model that does."""
    encoding = spec.numbers
    return Language(spec.encoding, encoding.low, encoding.high, spec.architecture, spec.precision)


@functools.cache
def numbers(language: Language) -> Encoding:
    """The encoding."""
    return ENCODINGS[language.encoding](language.low, language.high)


@functools.cache
def build(language: Language) -> Model:
    """The model without its parameters."""
    return seq2seq.build(language.architecture, jnp.dtype(language.precision))


@functools.cache
def trainer(language: Language, schedule: Schedule) -> Trainer:
    """How it is trained."""
    return train.trainer(seq2seq.loss(build(language), PAD), schedule)


@functools.cache
def beam_program(language: Language, k: int) -> Wrapped:
    """What `beam` runs, jitted: of parameters and sources [b, s], the k best guesses of each.

    `nn.decode.beam_search`, with answers as long as the language's longest.
    """
    model, length = build(language), language.architecture.target_length - 1
    return jax.jit(
        lambda params, source: decode.beam_search(model, params, source, k, SYMBOLS, length)
    )


@functools.cache
def sample_program(language: Language, k: int, nucleus: bool) -> Wrapped:
    """What `sample` runs, jitted: of parameters, sources [b, s], keys [b], temperature and top_p.

    `nn.decode.sample`, with answers as long as the language's longest; `nucleus`: top_p is read.
    """
    model, length = build(language), language.architecture.target_length - 1

    def sample(params, source, keys, temperature, top_p):
        top_p = top_p if nucleus else None
        return decode.sample(model, params, source, k, SYMBOLS, length, keys, temperature, top_p)

    return jax.jit(sample)


def beam(
    language: Language, params: Params, mesh: Mesh, source: Int[Host, "b s"], k: int
) -> Guesses:
    """The k answers of beam search; k = 1 is greedy. On the host."""
    found = sharding.on(mesh, beam_program(language, k))(params, sharding.spread(mesh, source))
    return _on_host(found, len(source))


def sample(
    language: Language,
    params: Params,
    mesh: Mesh,
    source: Int[Host, "b s"],
    k: int,
    keys: Key[Array, " b"],
    temperature: float,
    top_p: float,
) -> Guesses:
    """k answers at random, by a key for each matrix, on the host."""
    keys = jax.random.wrap_key_data(sharding.spread(mesh, np.asarray(jax.random.key_data(keys))))
    drawn = sharding.on(mesh, sample_program(language, k, top_p < 1))
    return _on_host(
        drawn(params, sharding.spread(mesh, source), keys, temperature, top_p), len(source)
    )


def log_prob(
    language: Language,
    params: Params,
    mesh: Mesh,
    source: Int[Host, "b s"],
    target: Int[Host, "b t"],
) -> Float[Host, " b"]:
    """Natural log-probability of whole answers, on the host."""
    found = sharding.on(mesh, _log_prob(language))(
        params, sharding.spread(mesh, source), sharding.spread(mesh, target)
    )
    return gathered(found)[: len(source)]


def answers(
    language: Language, tokens: Int[Host, "b k t"], sizes: Int[Host, " b"], d: int
) -> tuple[Float[Host, "b k d"], Bool[Host, "b k"]]:
    """What answers say for matrices of these sizes, 0 past a size; and which are in form."""
    values = np.zeros((*tokens.shape[:2], d))
    formed = np.zeros(tokens.shape[:2], bool)
    encoding = numbers(language)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        end = lengths(int(size), encoding)[1] - 1
        found, good = read(tokens[rows][:, :, :end], int(size), encoding)
        values[rows, :, :size] = np.where(good[..., None], found, 0)
        formed[rows] = good
    return values, formed


@functools.cache
def _log_prob(language: Language):
    model = build(language)

    def log_prob(params, source, target):
        logits = model.apply(params, "logits", source, target[:, :-1])
        labels = target[:, 1:]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return -jnp.sum(loss * (labels != PAD), -1)

    return jax.jit(log_prob)


def _on_host(guesses: Guesses, count: int) -> Guesses:
    return Guesses(*(gathered(leaf)[:count] for leaf in guesses))
