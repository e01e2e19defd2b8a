"""Decoding against brute force over all sequences, and the cache against none."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from synthjax.nn import decode, seq2seq
from synthjax.nn.decode import Symbols

PAD, BOS, EOS, V, LENGTH, S = 0, 1, 2, 5, 4, 6
CLOSE = dict(rtol=1e-5, atol=5e-5)  # sums of a few float32 log-probabilities
SYMBOLS = Symbols(PAD, BOS, EOS)
SOURCE = jnp.array([[3, 4, 4, 3, 2, 0], [4, 3, 2, 0, 0, 0], [3, 3, 3, 3, 3, 2]])


def architecture(**changes):
    settings = dict(vocabulary=V, source_length=S, target_length=LENGTH, width=16, heads=2)
    return seq2seq.Architecture(**(settings | dict(encoder_layers=2, decoder_layers=2) | changes))


def model_of(seed=0, **changes):
    """Parameters larger than they begin with, so that probabilities differ."""
    model = seq2seq.build(architecture(**changes))
    return model, jax.tree.map(lambda leaf: 1.7 * leaf, jax.jit(model.init)(jax.random.key(seed)))


def sequences():
    """Whatever may be guessed: no PAD, EOS last if at all, at most LENGTH tokens."""
    for length in range(1, LENGTH + 1):
        for tokens in itertools.product(range(1, V), repeat=length):
            ends = tokens[-1] == EOS
            if EOS not in tokens[:-1] and (ends or length == LENGTH):
                yield tokens


def exact(model, params, source):
    """Every sequence with its log-probability, from the uncached logits: [(log_prob, tokens)]."""
    every = list(sequences())
    target = np.full((len(every), LENGTH + 1), PAD)
    target[:, 0] = BOS
    for row, tokens in zip(target, every, strict=True):
        row[1 : 1 + len(tokens)] = tokens
    given = jnp.broadcast_to(source, (len(every), S))
    shown = jnp.asarray(target[:, :-1])
    logits = jax.jit(lambda params: model.apply(params, "logits", given, shown))(params)
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    scores = [
        sum(log_probs[i, t, token] for t, token in enumerate(tokens))
        for i, tokens in enumerate(every)
    ]
    return sorted(zip(scores, every, strict=True), reverse=True)


def without_pad(tokens):
    return tuple(int(token) for token in tokens if token != PAD)


@pytest.mark.slow
@pytest.mark.parametrize("pre_norm, tied", [(True, True), (False, True), (True, False)])
def test_a_wide_beam_finds_every_sequence_in_order(pre_norm, tied):
    model, params = model_of(pre_norm=pre_norm, tied=tied)
    k = len(list(sequences()))
    search = jax.jit(lambda p: decode.beam_search(model, p, SOURCE, k, SYMBOLS, LENGTH))
    found = search(params)
    for row, source in enumerate(SOURCE):
        expected = exact(model, params, source)
        np.testing.assert_allclose(found.log_prob[row], [s for s, _ in expected], **CLOSE)
        assert {without_pad(tokens) for tokens in found.tokens[row]} == set(sequences())
        score_of = {tokens: score for score, tokens in expected}
        own = [score_of[without_pad(tokens)] for tokens in found.tokens[row]]
        np.testing.assert_allclose(found.log_prob[row], own, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_narrow_beam_keeps_the_k_best_beginnings(k):
    """Token by token, with uncached logits and Python lists."""
    model, params = model_of(seed=1)
    search = jax.jit(lambda p: decode.beam_search(model, p, SOURCE, k, SYMBOLS, LENGTH))
    found = search(params)
    logits = jax.jit(lambda source, target: model.apply(params, "logits", source, target))
    for row, source in enumerate(SOURCE):
        beams = [(0.0, ())]
        for t in range(LENGTH):
            longer = [beam for beam in beams if EOS in beam[1]]
            for score, tokens in beams:
                if EOS in tokens:
                    continue
                target = jnp.array([[BOS, *tokens, *[PAD] * (LENGTH - 1 - t)]])
                log_probs = jax.nn.log_softmax(logits(source[None], target)[0, t])
                longer += [(score + float(log_probs[v]), (*tokens, v)) for v in range(1, V)]
            beams = sorted(longer, reverse=True)[:k]
        np.testing.assert_allclose(found.log_prob[row], [s for s, _ in beams], **CLOSE)
        assert [without_pad(tokens) for tokens in found.tokens[row]] == [b for _, b in beams]
        assert [EOS in b for _, b in beams] == found.ended[row].tolist()


def test_cached_logits_are_the_uncached_ones():
    model, params = model_of(seed=2, target_length=9)
    target = jax.random.randint(jax.random.key(0), (3, 9), 1, V)
    expected = jax.jit(lambda p: model.apply(p, "logits", SOURCE, target))(params)
    shared, own = jax.jit(lambda p: model.apply(p, "start", SOURCE, 1, 9))(params)
    step = jax.jit(lambda *given: model.apply(params, "step", shared, *given))
    for t in range(9):
        found, own = step(own, target[:, t : t + 1], jnp.int32(t))
        np.testing.assert_allclose(found[:, 0], expected[:, t], **CLOSE)


def test_more_guesses_than_sequences():
    model, params = model_of()
    every = len(list(sequences()))
    wide = jax.jit(lambda p: decode.beam_search(model, p, SOURCE, every + 3, SYMBOLS, LENGTH))
    found = wide(params)
    assert np.isneginf(found.log_prob[:, every:]).all()
    assert np.isfinite(found.log_prob[:, :every]).all()


def drawn(model, params, k, **how):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(jnp.arange(len(SOURCE)))
    return jax.jit(
        lambda params: decode.sample(model, params, SOURCE, k, SYMBOLS, LENGTH, keys, **how)
    )(params)


def test_samples_are_as_often_as_they_are_probable():
    """A χ² test of 20,000 samples for each source; PAD, which is never drawn, left out of p."""
    model, params = model_of(seed=3)
    # Without the mass that the model gives to PAD, brute force and sampling mean the same.
    params["bias"] = params["bias"].at[PAD].set(-1e9)
    found = drawn(model, params, 20_000)
    for row, source in enumerate(SOURCE):
        chances = {tokens: np.exp(score) for score, tokens in exact(model, params, source)}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        tokens, counts = np.unique(np.asarray(found.tokens[row]), axis=0, return_counts=True)
        counts = dict(zip(map(without_pad, tokens), counts, strict=True))
        likely = [s for s in chances if chances[s] > 5 / 20_000]
        observed = [counts.get(s, 0) for s in likely]
        rest = 20_000 - sum(observed)
        expected = [20_000 * chances[s] for s in likely]
        expected.append(20_000 - sum(expected))
        assert stats.chisquare([*observed, rest], expected, sum_check=False).pvalue > 1e-4
        own = [np.log(chances[without_pad(tokens)]) for tokens in found.tokens[row][:50]]
        np.testing.assert_allclose(found.log_prob[row][:50], own, **CLOSE)


def test_temperature_and_top_p():
    """Of the first token: p^(1/T) renormalised over the fewest that make up top_p of it."""
    model, params = model_of(seed=4)
    temperature, top_p, k = 3.0, 0.8, 20_000
    found = drawn(model, params, k, temperature=temperature, top_p=top_p)

    def first(params):
        shared, own = model.apply(params, "start", SOURCE, 1, LENGTH)
        return model.apply(params, "step", shared, own, jnp.full((3, 1), BOS), jnp.int32(0))[0]

    logits = np.asarray(jax.jit(first)(params))
    for row in range(len(SOURCE)):
        chance = np.exp(np.asarray(logits[row, 0], np.float64) / temperature)
        chance[PAD] = 0
        chance /= chance.sum()
        order = np.argsort(-chance)
        fewest = order[: 1 + np.searchsorted(np.cumsum(chance[order]), top_p)]
        kept = np.zeros(V)
        kept[fewest] = chance[fewest] / chance[fewest].sum()
        counts = np.bincount(np.asarray(found.tokens[row, :, 0]), minlength=V)
        assert not counts[kept == 0].any() and len(fewest) > 1
        assert stats.chisquare(counts[fewest], k * kept[fewest]).pvalue > 1e-4
    cold = drawn(model, params, 2, temperature=1e-4)
    greedy = jax.jit(lambda p: decode.beam_search(model, p, SOURCE, 1, SYMBOLS, LENGTH))
    best = greedy(params)
    for i in range(2):
        np.testing.assert_array_equal(cold.tokens[:, i], best.tokens[:, 0])


def test_a_source_is_decoded_the_same_in_any_company():
    model, params = model_of(seed=6)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(3))
    for decoded in (
        lambda source, keys: decode.beam_search(model, params, source, 3, SYMBOLS, LENGTH),
        lambda source, keys: decode.sample(model, params, source, 3, SYMBOLS, LENGTH, keys),
    ):
        decoded = jax.jit(decoded)
        many = decoded(SOURCE, keys)
        for i in range(3):
            alone = decoded(SOURCE[i : i + 1], keys[i : i + 1])
            np.testing.assert_array_equal(alone.tokens[0], many.tokens[i])
            np.testing.assert_allclose(alone.log_prob[0], many.log_prob[i], **CLOSE)
