"""The encoder–decoder: what it is made of, what it may look at, and bfloat16."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.eigen.tokens import ENCODINGS
from synthjax.nn import seq2seq

SMALL = seq2seq.Architecture(11, 7, 6, width=16, heads=2, encoder_layers=2, decoder_layers=2)
SOURCE = jnp.array([[3, 4, 5, 6, 2, 0, 0], [7, 8, 2, 0, 0, 0, 0]])
TARGET = jnp.array([[1, 3, 4, 5, 6, 2], [1, 9, 2, 0, 0, 0]])


def model_of(**changes):
    model = seq2seq.build(dataclasses.replace(SMALL, **changes))
    return model, jax.jit(model.init)(jax.random.key(0))


def logits_of(model, params, source, target):
    return jax.jit(lambda params: model.apply(params, "logits", source, target))(params)


def published(vocabulary, source_positions, target_positions, width=512, layers=6):
    """The published model's parameters, counted by hand: matrices and their biases."""
    attention = 4 * (width * width + width)
    feed_forward = 2 * 4 * width * width + 4 * width + width
    norm = 2 * width
    encoder = layers * (attention + feed_forward + 2 * norm)
    decoder = 2 * attention + feed_forward + 3 * norm
    embeddings = (2 * vocabulary + source_positions + target_positions) * width + 2 * norm
    return encoder + decoder + embeddings + vocabulary


def test_lawt_has_the_published_number_of_parameters():
    """28.7 million with 1,328 symbols and 4,096 positions a side; 24.5 with those that are used."""
    every = seq2seq.build(seq2seq.Architecture(1328, 4096, 4096, **seq2seq.LAWT))
    assert every.size == published(1328, 4096, 4096)
    assert round(every.size / 1e6, 1) == 28.7
    symbols = len(ENCODINGS["P1000"](-8, 4).symbols)
    used = seq2seq.build(seq2seq.Architecture(symbols, 78, 19, **seq2seq.LAWT))
    assert used.size == published(symbols, 78, 19)
    assert round(used.size / 1e6, 1) == 24.2


@pytest.mark.slow
@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_token_sees_those_before_it_and_the_source_alone(pre_norm):
    """By gradients: of the logits at t in every embedded input."""
    model, params = model_of(pre_norm=pre_norm)

    def logits(positions, t):
        changed = params | {"target": params["target"] | {"positions": {"embedding": positions}}}
        return (model.apply(changed, "logits", SOURCE, TARGET)[0, t] ** 2).sum()

    positions, gradient = params["target"]["positions"]["embedding"], jax.jit(jax.grad(logits))
    for t in range(6):
        moved = np.abs(gradient(positions, t)).sum(1)
        assert (moved[: t + 1] > 0).all() and (moved[t + 1 :] == 0).all()

    def of_source(positions):
        changed = params | {"source": params["source"] | {"positions": {"embedding": positions}}}
        return (model.apply(changed, "logits", SOURCE, TARGET)[0] ** 2).sum()

    moved = np.abs(jax.jit(jax.grad(of_source))(params["source"]["positions"]["embedding"])).sum(1)
    assert (moved[:5] > 0).all() and (moved[5:] == 0).all()  # PAD is not there


def test_padding_changes_nothing():
    model, params = model_of()
    short = logits_of(model, params, SOURCE[1:, :3], TARGET[1:, :3])
    long = logits_of(model, params, SOURCE[1:], TARGET[1:])
    np.testing.assert_allclose(long[:, :3], short, atol=1e-5)


@pytest.mark.slow
def test_every_parameter_matters():
    """But the biases of keys, which softmax cancels."""
    for changes in ({}, {"pre_norm": False}, {"tied": False}):
        model, params = model_of(**changes)

        def cubes(params, model=model):
            return (model.apply(params, "logits", SOURCE, TARGET) ** 3).sum()

        gradient = jax.jit(jax.grad(cubes))(params)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            assert np.abs(leaf).max() > 1e-6, path


def test_bfloat16_computes_nearly_the_same_from_float32_parameters():
    model, params = model_of()
    half = seq2seq.build(SMALL, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.shapes)} == {jnp.dtype("float32")}
    found, expected = (logits_of(m, params, SOURCE, TARGET) for m in (half, model))
    assert found.dtype == jnp.float32
    assert 1e-5 < np.abs(found - expected).max() < 0.05
    _, own = jax.eval_shape(lambda: half.apply(params, "start", SOURCE, 2, 3))
    assert {leaf.dtype for leaf in own.values()} == {jnp.dtype("bfloat16")}
