"""The Llama family: rows shared or padded, the cache, losses in parts, adapters.

What others' programs compute from the same weights is in `tests/summarize/test_hf.py`.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from synthjax.nn import decode, head, llama, lora, train
from synthjax.nn.decode import Symbols
from synthjax.nn.llama import Architecture, Batch
from synthjax.nn.lora import Lora
from synthjax.nn.sharding import AXES
from synthjax.protocol.training_set import groups

V, NONE, EOS = 23, -1, 2
CLOSE = dict(rtol=1e-5, atol=3e-5)  # float32, in another order
LLAMA = Architecture(V, 16, 2, 4, 2, 6, 20, 64)
# A window shorter than the texts, and whatever else Llama itself lacks.
MISTRAL = dataclasses.replace(LLAMA, window=3, tied=False, qkv_bias=True)
BOTH = pytest.mark.parametrize("a", [LLAMA, MISTRAL], ids=["llama", "mistral"])
LENGTHS = np.array([3, 8, 5])
TEXTS = [np.random.default_rng(i).integers(3, V, length) for i, length in enumerate(LENGTHS)]
LORA = Lora(rank=3, alpha=6.0)


def draw(shapes, seed=0):
    """Larger than models begin with: attention is uniform otherwise, which hides mistakes."""
    rng = np.random.default_rng(seed)
    center = lambda leaf: 1 if leaf.ndim == 1 else 0  # noqa: E731
    return jax.tree.map(
        lambda leaf: jnp.asarray(center(leaf) + 0.4 * rng.standard_normal(leaf.shape), leaf.dtype),
        shapes,
    )


@functools.cache
def model_of(a, **how):
    model = llama.build(a, **how)
    return model, draw(model.shapes)


@functools.cache
def compiled(apply, method):
    return jax.jit(lambda params, *rows: apply(params, method, *rows))


def logits(model, params, *rows):
    return compiled(model.apply, "logits")(params, *rows)


def padded(texts, width=8, left=False):
    rows = np.zeros((len(texts), width), np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[slice(width - len(text), None) if left else slice(len(text))] = text
    return rows


def logits_of(a, texts):
    """Of each text alone, in a row of its own."""
    model, params = model_of(a)
    found = logits(model, params, padded(texts))
    return [row[: len(text)] for row, text in zip(found, texts, strict=True)]


def packed():
    """All texts in one row, with padding before, between and after them; and where they are."""
    tokens, segments, positions = (np.zeros((1, 20), np.int32) for _ in range(3))
    places = []
    for number, (first, text) in enumerate(zip((1, 4, 14), TEXTS, strict=True), 1):
        places.append(slice(first, first + len(text)))
        tokens[0, places[-1]], segments[0, places[-1]] = text, number
        positions[0, places[-1]] = np.arange(len(text))
    return (tokens, segments, positions), places


def assert_trees_close(found, expected, **how):
    for path, leaf in jax.tree.leaves_with_path(expected):
        other = functools.reduce(lambda tree, key: tree[key.key], path, found)
        np.testing.assert_allclose(other, leaf, **how, err_msg=jax.tree_util.keystr(path))


@BOTH
def test_texts_that_share_a_row_do_not_see_each_other(a):
    model, params = model_of(a)
    rows, places = packed()
    found = logits(model, params, *rows)[0]
    for place, expected in zip(places, logits_of(a, TEXTS), strict=True):
        np.testing.assert_allclose(found[place], expected, **CLOSE)


@BOTH
def test_padding_on_the_left_changes_nothing(a):
    model, params = model_of(a)
    there = padded([np.ones_like(text) for text in TEXTS], 11, left=True)
    found = logits(model, params, padded(TEXTS, 11, left=True), there)
    assert np.isfinite(found).all()
    for row, expected in zip(found, logits_of(a, TEXTS), strict=True):
        np.testing.assert_allclose(row[-len(expected) :], expected, **CLOSE)


@BOTH
def test_a_token_sees_those_before_it_in_the_window(a):
    """Two layers see two windows: 2 tokens back, and 2 from there."""
    model, params = model_of(a)
    (text,) = padded(TEXTS[1:2])
    moved = []
    for t in range(8):
        other = text.copy()
        other[t] = 3 + (text[t] - 2) % (V - 3)
        rows = np.stack([text, other, other])
        one, two, _ = logits(model, params, rows)
        moved.append(np.abs(one - two).max(-1) > 1e-4)
    past = np.arange(8) - np.arange(8)[:, None]  # of what is seen, by what was changed
    seen = (past >= 0) & (past <= 4 if a.window else past >= 0)
    np.testing.assert_array_equal(moved, seen)


@BOTH
@pytest.mark.parametrize("size, width", [(2, 8), (2, 11), (3, 20)])
def test_queries_in_blocks_are_queries_all_at_once(monkeypatch, a, size, width):
    """Alone, and in rows that are shared; four blocks at most, the last one shorter."""
    (tokens, segments, positions), _ = packed()
    model = llama.build(a)
    params = draw(model.shapes)

    @jax.value_and_grad
    def value(params):
        alone = model.apply(params, "log_probs", padded(TEXTS, width))
        shared = model.apply(params, "log_probs", tokens, segments, positions)
        return jnp.sum(alone[:, :7] ** 2) + jnp.sum(shared**2)

    def found(block):
        monkeypatch.setattr(llama, "BLOCK", block)
        products = str(
            jax.make_jaxpr(lambda p: model.apply(p, "logits", padded(TEXTS, width)))(params)
        )
        return jax.jit(lambda params: value(params))(params), products.count("dot_general")

    (whole, slope), once = found(10**6)
    (parts, slopes), often = found(size)
    blocks = -(-width // max(size, -(-width // 4)))
    assert often == once + 2 * a.layers * (blocks - 1)  # scores and values, of each
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert_trees_close(slopes, slope, rtol=1e-3, atol=1e-3)


@BOTH
def test_every_parameter_matters(a):
    """Biases of keys too, which softmax would cancel, were they not rotated."""
    model, params = model_of(a)
    rows = jnp.asarray(padded(TEXTS))
    gradient = jax.jit(jax.grad(lambda p: (model.apply(p, "log_probs", rows) ** 2).sum()))(params)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.abs(leaf).max() > 1e-4, jax.tree_util.keystr(path)


@BOTH
def test_the_cache_computes_what_there_is_without_it(a):
    """Greedily, and what samples are said to be worth; guesses are longer than the window."""
    model, params = model_of(a)
    k, length = 3, 7
    tokens = padded(TEXTS)
    last = tokens[np.arange(3), LENGTHS - 1][:, None]
    source, symbols = (tokens, LENGTHS), Symbols(NONE, last, EOS)
    keys = jax.random.split(jax.random.key(1), 3)

    @jax.jit
    def decoded(params):
        best = decode.beam_search(model, params, source, 1, symbols, length)
        return best, decode.sample(model, params, source, k, symbols, length, keys)

    greedy, drawn = jax.tree.map(np.asarray, decoded(params))
    guesses = [[token for token in row if token != NONE] for row in drawn.tokens.reshape(9, 7)]
    assert len(set(map(tuple, guesses))) > 6
    texts = [
        [*text, *guess]
        for text, guess in zip([text for text in TEXTS for _ in range(k)], guesses, strict=True)
    ]
    log_probs = compiled(model.apply, "log_probs")(params, padded(texts, 15))
    for row, text, guess, found in zip(
        log_probs, texts, guesses, drawn.log_prob.ravel(), strict=True
    ):
        expected = row[len(text) - len(guess) - 1 : len(text) - 1].sum()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)

    texts = [text.tolist() for text in TEXTS]
    for _ in range(length):
        rows = logits(model, params, padded(texts, 15))
        for text, row in zip(texts, rows, strict=True):
            if EOS not in text:
                text.append(int(row[len(text) - 1].argmax()))
    for text, given, found in zip(texts, LENGTHS, greedy.tokens[:, 0], strict=True):
        assert [token for token in found if token != NONE] == text[given:]


@pytest.mark.parametrize("held", [3 * V, 3 * 3 * V, 2**28])
def test_log_probs_in_parts(monkeypatch, held):
    """Seven columns: one by one, and three by three with two that are not there; as `held` allows.

    Or all at once. Gradients too, for which the loss has its own rule.
    """
    model, params = model_of(MISTRAL)
    rows = jnp.asarray(padded(TEXTS))
    weights = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 7)))

    def whole(params):
        log_probs = jax.nn.log_softmax(model.apply(params, "logits", rows))[:, :-1]
        own = jnp.take_along_axis(log_probs, rows[:, 1:, None], -1)[..., 0]
        return (own * weights).sum() ** 2, own

    def parts(params):
        own = model.apply(params, "log_probs", rows)
        return model.apply(params, "log_prob", jnp.pad(weights, [(0, 0), (1, 0)]), rows) ** 2, own

    monkeypatch.setattr(head, "LOGITS", held)
    slope = jax.grad(parts, has_aux=True)
    assert (f"3,7,{V}]" in str(jax.make_jaxpr(slope)(params))) == (held == 2**28)
    (found, own), (expected, theirs) = (
        jax.jit(jax.grad(loss, has_aux=True))(params) for loss in (parts, whole)
    )
    np.testing.assert_allclose(own, theirs, **CLOSE)
    assert_trees_close(found, expected, rtol=1e-4, atol=1e-4)


@BOTH
def test_a_gradient_in_bfloat16_is_that_in_float32_nearly(a):
    """And no product is of float32, which takes an accelerator twice the time or more."""
    batch = batch_of(padded(TEXTS), told_of(TEXTS))
    gradients = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        model, params = model_of(a, dtype=dtype)
        slope = jax.jit(jax.grad(llama.loss(model).summed))
        gradients[dtype] = np.concatenate(
            [np.ravel(leaf) for leaf in jax.tree.leaves(slope(params, batch, None))]
        )
        factors = re.findall(
            r"dot_general.*: \((.*?)\) ->", slope.lower(params, batch, None).as_text()
        )
        kinds = {kind for pair in factors for kind in re.findall(r"x(f32|bf16)>", pair)}
        assert kinds == {jnp.dtype(dtype).name.replace("bfloat", "bf").replace("float", "f")}
    exact, found = gradients.values()
    assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)


def test_a_loss_has_no_more_parts_on_more_devices(monkeypatch):
    """With as many rows for each."""
    model, params = model_of(MISTRAL)
    monkeypatch.setattr(head, "LOGITS", 3 * 7 * V // 2)

    def lengths(devices):
        kinds = (AxisType.Auto,) * len(AXES)
        rows = jnp.zeros((3 * devices, 8), jnp.int32)
        with jax.sharding.use_abstract_mesh(AbstractMesh((devices, 1, 1), AXES, axis_types=kinds)):
            made = jax.make_jaxpr(lambda params: model.apply(params, "log_probs", rows))(params)
        return re.findall(r"length=(\d+)", str(made))

    assert lengths(1) == lengths(4) == ["3"]


def test_a_row_of_one_token_has_no_log_probs():
    model, params = model_of(LLAMA)
    rows = jnp.full((2, 1), 5)
    assert jax.eval_shape(lambda: model.apply(params, "log_probs", rows)).shape == (2, 0)


def batch_of(rows, told, segments=None, positions=None):
    return jax.tree.map(jnp.asarray, Batch(rows, told, segments, positions))


def told_of(texts, width=8):
    """The last three tokens of each; the very last half as much."""
    return padded([[0] * (len(text) - 3) + [2, 2, 1] for text in texts], width) / np.float32(2)


def test_the_loss_is_of_what_is_told():
    """Of texts in one row what it is of each alone, of which the first token is nobody's guess."""
    model, params = model_of(LLAMA)
    loss = llama.loss(model)
    told = told_of(TEXTS)
    expected, count = 0.0, 0.0
    for text, row, found in zip(TEXTS, told, logits_of(LLAMA, TEXTS), strict=True):
        log_probs = np.asarray(jax.nn.log_softmax(found))
        for t in range(1, len(text)):
            expected -= log_probs[t - 1, text[t]] * row[t]
            count += row[t]
    alone = batch_of(padded(TEXTS), told)
    (tokens, segments, positions), places = packed()
    weights = np.zeros(tokens.shape, np.float32)
    for place, text, row in zip(places, TEXTS, told, strict=True):
        weights[0, place] = row[: len(text)]
        weights[0, place.start] = 0
    together = batch_of(tokens, weights, segments, positions)
    for batch in (alone, together):
        found = jax.jit(loss.summed)(params, batch, None)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(loss.tokens(batch), count)


def test_computing_layers_again_changes_nothing():
    model, params = model_of(LLAMA)
    again, _ = model_of(LLAMA, remat=True)
    batch = batch_of(padded(TEXTS), told_of(TEXTS))
    (value, slope), (other, slopes) = (
        jax.jit(jax.value_and_grad(llama.loss(which).summed))(params, batch, None)
        for which in (model, again)
    )
    np.testing.assert_allclose(other, value, rtol=1e-6)
    assert_trees_close(slopes, slope, rtol=1e-4, atol=1e-5)


def test_adapters_that_know_nothing_change_nothing():
    """As they begin, B is 0; and they stand beside every matrix of the layers, and nowhere else."""
    _, params = model_of(MISTRAL)
    adapted = llama.build(MISTRAL, lora=LORA)
    begun = lora.adapters(jax.jit(adapted.init)(jax.random.key(0)))
    found = logits(adapted, lora.joined(params, begun), padded(TEXTS))
    for row, expected in zip(found, logits_of(MISTRAL, TEXTS), strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected, **CLOSE)
    paths = {
        ".".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(begun)
    }
    assert len(paths) == 2 * 7 * MISTRAL.layers
    assert paths["model.layers.1.mlp.down_proj.lora_a"] == (3, 20)
    assert paths["model.layers.1.mlp.down_proj.lora_b"] == (16, 3)


def test_adapters_alone_learn_and_can_be_merged():
    _, params = model_of(MISTRAL)
    adapted = llama.build(MISTRAL, lora=LORA)
    begun = lora.adapters(draw(adapted.shapes, seed=1))
    schedule = train.Schedule(steps=4, warmup=0, learning_rate=0.01)
    trainer = train.trainer(llama.loss(adapted), schedule)
    batch, before = batch_of(padded(TEXTS), told_of(TEXTS)), jax.tree.map(np.array, params)
    some = groups(iter([batch] * 4), [3, 1])
    states, metrics = zip(*train.steps(trainer, trainer.begin(begun), some, params), strict=True)
    losses = [float(step.loss) for steps in metrics for step in steps]
    assert losses == sorted(losses, reverse=True)
    learned = states[-1].params
    assert jax.tree.structure(learned) == jax.tree.structure(begun)
    assert all(
        np.abs(after - first).max() > 1e-3
        for after, first in zip(*map(jax.tree.leaves, (learned, begun)), strict=True)
    )
    jax.tree.map(np.testing.assert_array_equal, params, before)

    both = lora.joined(params, learned)
    expected = logits(adapted, both, padded(TEXTS))
    merged = lora.merged(both, LORA)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    found = logits(model_of(MISTRAL)[0], merged, padded(TEXTS))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    plain = logits_of(MISTRAL, TEXTS[1:2] * 3)[0]
    assert np.abs(expected[1] - plain).max() > 1


def test_bfloat16_computes_nearly_the_same_from_float32_parameters():
    model, params = model_of(LLAMA)
    half, _ = model_of(LLAMA, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.shapes)} == {jnp.dtype("float32")}
    found, expected = (logits(m, params, padded(TEXTS)) for m in (half, model))
    assert found.dtype == jnp.float32
    assert 1e-4 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
