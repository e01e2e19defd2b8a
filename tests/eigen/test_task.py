"""The steps of the eigenvalue task, each against what it should be made of."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from eigen.tiny import tiny

from synthjax.eigen import model
from synthjax.eigen.data import SPECTRA, source_ids, target_ids
from synthjax.eigen.measure import TOLERANCES, errors
from synthjax.eigen.task import EigenTask
from synthjax.eigen.tokens import BOS, EOS, PAD
from synthjax.io.watchdog import Watchdog
from synthjax.nn import sharding
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.training_set import groups

MESH = sharding.mesh()


def task_of(models=None, **changes):
    return EigenTask(tiny(**changes), MESH, models or {})


@pytest.fixture(scope="module")
def generator():
    """A model that has seen enough to write answers in form, most of them wrong."""
    task = task_of(steps=150, n_real=2000, batch=32, learning_rate=0.01, width=16)
    begun, batches = task.begin(0, None), task.batches(0, task.pool(0, None, ()), 0)
    state, _ = list(task.learn(0, begun, groups(batches, itertools.repeat(4))))[-1]
    return task.params(state)


def everything(task, params, t=1):
    parts = [task.guess(t, params, part) for part in range(task.parts(t))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


WIDE = dict(width=16)


@pytest.mark.parametrize("kind", ["beam", "sample"])
def test_guesses_are_of_their_matrices(generator, kind):
    """20 matrices in batches of 8, 8 and 4: shapes, errors and log-probabilities written out."""
    task = task_of(generator=kind, **WIDE)
    guesses = everything(task, generator)
    examples = task.spec.matrices.draw(key(0, Stream.FEATURES, 0, 1), np.arange(20))
    assert {leaf.shape[:2] for leaf in guesses.values()} == {(20, 2)}
    tokens = guesses["tokens"].astype(np.int32)
    source = source_ids(examples, task.encoding)
    for i in range(20):
        for j in range(2):
            values, formed = model.answers(task.language, tokens[i, j][None, None], [2], 2)
            error = errors(values, formed, examples.values[i]).l1
            np.testing.assert_allclose(guesses["error"][i, j], error[0, 0], rtol=1e-6)
            target = np.concatenate([[BOS], tokens[i, j]])[None]
            told = model.log_prob(task.language, generator, MESH, source[i : i + 1], target)
            if (tokens[i, j] == EOS).any():
                np.testing.assert_allclose(guesses["log_prob"][i, j], told[0], rtol=1e-4, atol=1e-4)
    assert np.isfinite(guesses["error"]).any()  # some are in form


def test_random_numbers_of_a_generation_are_its_own(generator):
    task = task_of(verifier="noisy", n=200, **WIDE)
    one, again, two = (everything(task, generator, t) for t in (1, 1, 2))
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
        assert (one[name] != two[name]).any()
    assert (one["score"][:8] != one["score"][8:16]).any()  # not the same coins in every batch


def test_other_models_as_verifiers(generator):
    """The generator itself as the other model: its own greedy answers agree with it."""
    models = {"it": (task_of(**WIDE).language, generator)}
    own = dict(verifier_model="it", generator="beam", k=1, **WIDE)
    guesses = everything(task_of(models, verifier="model", **own), generator)
    np.testing.assert_array_equal(guesses["score"], np.isfinite(guesses["error"]))
    ranked = everything(task_of(models, verifier="ranked_model", **own), generator)
    formed = np.isfinite(ranked["error"])
    np.testing.assert_allclose(
        ranked["score"][formed], ranked["log_prob"][formed], rtol=1e-4, atol=1e-4
    )
    assert np.isneginf(ranked["score"][~formed]).all()


def made_up(n=60, k=3, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(n, k)).astype(np.float32)
    log_prob = np.where(rng.random((n, k)) < 0.1, -np.inf, -1.0).astype(np.float32)
    tokens = rng.integers(3, 9, (n, k, 12)).astype(np.uint16)
    error = (rng.choice([0.001, 0.015, 0.03, 0.5], (n, k))).astype(np.float32)
    return {"tokens": tokens, "log_prob": log_prob, "score": score, "error": error}


@pytest.mark.parametrize("selection", ["prune", "top", "best_of_k", "random"])
def test_select(selection):
    """Which guesses are kept, their tokens, and the rates, counted one by one."""
    guesses = made_up()
    there = np.isfinite(guesses["log_prob"])
    if selection == "prune":
        guesses["score"] = (guesses["score"] > 0).astype(np.float32)
        task, expected = task_of(verifier="oracle"), there & (guesses["score"] > 0)
    elif selection == "top":
        task = task_of(verifier="self", keep=0.25)
        count = round(0.25 * there.sum())
        least = np.sort(guesses["score"][there])[-count]
        expected = there & (guesses["score"] >= least)
    elif selection == "best_of_k":
        task = task_of(verifier="self", selection="best_of_k")
        score = np.where(there, guesses["score"], -np.inf)
        expected = there & (score == score.max(1, keepdims=True))
    else:
        task, expected = task_of(selection="random", keep=0.25), None
    selected, record = task.select(1, guesses)
    if expected is None:
        assert len(selected["index"]) == round(0.25 * there.sum())
        other, _ = task.select(2, guesses)
        assert (selected["index"] != other["index"]).any()
        return
    i, j = np.nonzero(expected)
    np.testing.assert_array_equal(selected["index"], i)
    assert (selected["target"][:, 0] == BOS).all()
    np.testing.assert_array_equal(selected["target"][:, 1:], guesses["tokens"][i, j])
    assert record["kept"] == expected.sum() / there.sum()
    for at, tau in enumerate(TOLERANCES):
        right = (guesses["error"] < tau) & there
        wrong = ~right & there
        assert record["p_hat"][at] == wrong.sum() / there.sum()
        assert record["phi_hat"][at] == (right & expected).sum() / right.sum()
        assert record["psi_hat"][at] == (wrong & expected).sum() / wrong.sum()


def test_a_training_set_is_of_matrices_and_what_was_kept():
    task = task_of(regime="mix", real_fraction=0.25)
    assert (task.n, task.n_fresh, task.parts(1)) == (15, 5, 2)
    selected = {"index": np.array([4, 2]), "target": np.arange(28, dtype=np.uint16).reshape(2, 14)}
    data = task.pool(1, task.kept(1, selected), [])
    assert len(data) == 2 + 5
    found = data.rows(np.array([6, 0, 1]))
    kept = task.spec.matrices.draw(key(0, Stream.FEATURES, 0, 1), np.array([4, 2]))
    real = task.spec.matrices.draw(key(0, Stream.REAL, 0, 1), np.array([4]))
    sources = [source_ids(examples, task.encoding) for examples in (real, kept)]
    np.testing.assert_array_equal(found.source, np.concatenate(sources))
    np.testing.assert_array_equal(found.target[1:], selected["target"])
    true = target_ids(real.values, real.sizes, task.encoding)
    np.testing.assert_array_equal(found.target[:1], true)
    assert len(task.pool(0, None, ())) == 64


def test_fresh_real_matrices_are_others_than_the_generator_saw():
    task = task_of(regime="mix")
    first = task.pool(0, None, ()).rows(np.arange(10)).source
    fresh = task.pool(1, None, ()).rows(np.arange(10)).source
    assert not {row.tobytes() for row in first} & {row.tobytes() for row in fresh}


def test_where_training_begins(generator):
    going_on = task_of(start="generator", **WIDE).begin(1, generator)
    for a, b in zip(jax.tree.leaves(going_on.params), jax.tree.leaves(generator), strict=True):
        np.testing.assert_array_equal(a, b)
    anew = [task_of(**WIDE).begin(t, generator).params for t in (1, 1, 2)]
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(p)]) for p in anew]
    assert (flat[0] == flat[1]).all() and (flat[0] != flat[2]).any()


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3)])
def test_measure(sizes):
    """From decoded answers of single matrices; 10 test matrices, in batches of 8 and 2."""
    changes = dict(size_min=sizes[0], size_max=sizes[1])
    task = task_of(**changes)
    params = task.params(task.begin(0, None))
    with Watchdog() as watchdog:
        found = task.measure(0, params, watchdog)
    examples = task.spec.matrices.draw(key(0, Stream.TEST, 0, 0), np.arange(10))
    assert set(examples.sizes) == set(range(sizes[0], sizes[1] + 1))
    source = source_ids(examples, task.encoding)
    target = target_ids(examples.values, examples.sizes, task.encoding)
    told = model.log_prob(task.language, params, MESH, source, target)
    np.testing.assert_allclose(found["loss"], -told.sum() / (target[:, 1:] != PAD).sum(), rtol=1e-5)
    assert found["accuracy"].shape == (4, 3) and found["accuracy_spectrum"].shape == (7, 4)
    at = list(SPECTRA).index("semicircle")
    np.testing.assert_array_equal(found["accuracy_spectrum"][at], found["accuracy"][:, 0])


def test_a_perfect_and_a_nearly_perfect_model_measured(monkeypatch):
    """Answers that are the truth, off by 3 % in the second beam: what each number says of them."""
    task = task_of(size_min=2, size_max=3, encoding="P1000")

    def told(language, params, mesh, source, k):
        for spectrum in SPECTRA:  # whose matrices these are
            matrices = dataclasses.replace(task.spec.matrices, spectrum=spectrum)
            examples = matrices.draw(key(0, Stream.TEST, 0, 0), np.arange(10))
            rows = source_ids(examples, task.encoding)
            where = [np.flatnonzero((rows == row).all(1)) for row in source]
            if all(map(len, where)):
                break
        i = np.array([one[0] for one in where])
        beams = [
            target_ids(examples.values[i] * factor, examples.sizes[i], task.encoding)[:, 1:]
            for factor in (1.03, 1.0)[-k:]
        ]
        return model.Guesses(
            np.stack(beams, 1), np.tile([[-1.0, -2.0][:k]], (len(i), 1)), np.ones((len(i), k), bool)
        )

    monkeypatch.setattr(model, "beam", told)
    monkeypatch.setattr(model, "log_prob", lambda *a: np.full(len(a[-1]), -2.0))
    with Watchdog() as watchdog:
        found = task.measure(0, None, watchdog)
    assert found["accuracy"][:3, 0].tolist() == [1, 1, 1]
    assert found["accuracy"][:3, 1].tolist() == [1, 1, 1]  # some beam is right
    assert found["accuracy"][:3, 2].tolist() == [1, 0, 0]  # the more probable one is off by 3 %
    assert (found["accuracy_spectrum"][:, :3] == 1).all()
    assert (found["accuracy_each"][:2] == 1).all() and (found["accuracy_largest"][:3] == 1).all()
    low, high = found["accuracy_low"], found["accuracy_high"]
    assert (low <= found["accuracy"]).all() and (found["accuracy"] <= high).all()
    assert low[0, 0] == pytest.approx(1 / (1 + 1.959964**2 / 10))  # Wilson's for 10 of 10
