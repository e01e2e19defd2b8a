"""Runs of the summarization task: what they leave, and that every step does what it says."""

import itertools
import json
import multiprocessing
from unittest import mock

import jax
import numpy as np
import pytest
from rouge_score import rouge_scorer
from summarize.tiny import tiny, written

from synthjax import summarize
from synthjax.io import results
from synthjax.io.tensors import ModelError
from synthjax.io.workdir import WorkdirError
from synthjax.nn import sharding
from synthjax.nn.sharding import LEFT
from synthjax.plot import summarize as plot
from synthjax.protocol import loop
from synthjax.protocol.spec import SpecError, fields_of
from synthjax.protocol.training_set import groups
from synthjax.summarize import hf, sweep
from synthjax.summarize.pairs import DataError
from synthjax.summarize.task import SummarizeTask

pytestmark = pytest.mark.slow
MESH = sharding.mesh()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return written(tmp_path_factory.mktemp("texts") / "pairs.jsonl")


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    spec = tiny(file, sweep={"verifier": ("random", "oracle"), "rate": (0.25, 0.5)})
    return workdir, summarize.run(spec, workdir)


def task_of(file, **changes):
    spec = tiny(file, **changes)
    corpus, mesh = sweep.read_corpus(file), sharding.mesh(spec.mesh)
    bases, others = sweep._bases(spec, mesh, corpus)
    base = sweep._base_of(spec, bases)
    return SummarizeTask(spec, mesh, corpus, base, others), base


def test_results(whole):
    workdir, found = whole
    assert dict(found.sizes) == {"verifier": 2, "rate": 2, "generation": 3, "metric": 3}
    assert found.identical(results.read(workdir / "results.nc"))
    np.testing.assert_allclose(found.kept[:, :, 1:], np.broadcast_to([[[0.25], [0.5]]], (2, 2, 2)))
    # The top of all guesses by ROUGE-1 are right at a higher rate than the others.
    later = found.sel(verifier="oracle", metric="rouge1").isel(generation=1)
    assert (later.rouge_kept >= later.rouge_guessed).all()
    assert (found.rouge_low <= found.rouge).all() and (found.rouge <= found.rouge_high).all()
    assert (found.examples[..., 1:] == [[[10, 10], [20, 20]]] * np.ones((2, 1, 1))).all()


def test_what_lies_in_the_workdir(whole):
    workdir, found = whole
    lines = (workdir / "samples" / "verifier=oracle,rate=0.25.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 3
    assert json.loads(lines[0]).keys() == {
        *("id", "generation", "guess", "reference", "rouge1", "rouge2", "rougeL")
    }
    lm = hf.load(workdir / "models" / "verifier=oracle,rate=0.25")
    assert lm.generate(["the river"], 4) and lm.tokenizer is not None
    card = (workdir / "models" / "first" / "README.md").read_text()
    assert "real summaries" in card and f"{float(found.rouge[0, 0, 0, 0]):.4f}" in card
    assert all(path.exists() for path in plot.save(found, workdir / "figures"))
    assert {path.stem for path in (workdir / "figures").iterdir()} == {"rouge", "by_rate"}
    assert plot.summary(found).row_count == 4


def test_guesses_are_scored_against_their_own_reference(file):
    task, base = task_of(file, verifier="self")
    guesses = task.guess(1, base.params, 0)
    assert {leaf.shape[:2] for leaf in guesses.values()} == {(8, 2)}
    articles = task._articles(1)
    for i in range(8):
        for j in range(2):
            row = guesses["tokens"][i, j]
            row = row[row >= 0]
            text = task.format.read(row)
            expected = reference_rouge(text, articles[i].summary)
            np.testing.assert_allclose(guesses["rouge"][i, j], expected, atol=1e-6)
            prompt = task.format.prompts([articles[i].text])
            lm = hf.LM(task.language, base.params, MESH, {})
            perplexity = lm.perplexity(prompt, [row.tolist()])
            np.testing.assert_allclose(np.exp(-guesses["score"][i, j]), perplexity[0], rtol=1e-4)


def nameless(key, numbers, guesses):
    """Forgets that a summary may have no word."""
    return guesses.rouge[..., 0] / np.where(guesses.words < 100, np.nan, 1)


def test_a_verifier_that_gives_nan_is_named(file):
    task, base = task_of(file, verifier=nameless)
    with pytest.raises(SpecError, match="'nameless': gave NaN for 16 of 16"):
        task.guess(1, base.params, 0)


def reference_rouge(guess, reference):
    found = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    return [score.fmeasure for score in found.score(reference, guess).values()]


@pytest.mark.parametrize("split", ["fsdp", "tensor"])
def test_parameters_split_over_devices(file, split):
    """Each holds half of every matrix and of what Adam knows of it; losses and guesses agree."""
    if jax.device_count() != 2:
        pytest.skip("two devices")
    how = dict(generator="greedy", k=1, verifier="self", kv_heads=2)
    seen = {}
    for count in (1, 2):
        task = task_of(file, **how, mesh={**LEFT, split: count})[0]
        begun = task.begin(0, None)
        for part in (begun.params, begun.optimizer):
            leaves = [leaf for leaf in jax.tree.leaves(part) if leaf.ndim == 2]
            assert leaves
            for leaf in leaves:
                assert leaf.addressable_shards[0].data.size == leaf.size // count
        assert jax.tree.map(lambda leaf: leaf.sharding, begun) == jax.tree.map(
            lambda leaf: leaf.sharding, task.abstract(0)
        )
        batches = task.batches(0, task.pool(0, None, ()), 0)
        some = groups(batches, itertools.repeat(4))
        states, metrics = zip(*task.learn(0, begun, some), strict=True)
        guesses = task.guess(1, task.params(states[-1]), 0)
        seen[count] = [float(step.loss) for steps in metrics for step in steps], guesses["tokens"]
    np.testing.assert_allclose(seen[2][0], seen[1][0], rtol=1e-5)
    np.testing.assert_array_equal(seen[2][1], seen[1][1])


def test_random_numbers_of_a_generation_are_its_own(file):
    task, base = task_of(file)
    one, again, two = (task.guess(t, base.params, 0) for t in (1, 1, 2))
    np.testing.assert_array_equal(one["tokens"], again["tokens"])
    assert (one["tokens"] != two["tokens"]).any()


def test_a_verifier_of_ones_own(file):
    """It sees the texts themselves, each article's with its reference."""

    def shortest(key, numbers, guesses):
        assert len(guesses.pairs) == len(guesses.texts)
        return [[-len(text) for text in texts] for texts in guesses.texts]

    with mock.patch.dict(fields_of(summarize.Spec)["verifier"].metadata["kinds"]):
        task, base = task_of(file, verifier=shortest)
        guesses = task.guess(1, base.params, 0)
        texts = [[task.format.read(row[row >= 0]) for row in rows] for rows in guesses["tokens"]]
        np.testing.assert_array_equal(guesses["score"], [[-len(t) for t in row] for row in texts])


@pytest.mark.parametrize(
    "statuses, says",
    [
        ([0], "real summaries"),
        ([0, loop.NOTHING_KEPT], "real summaries"),
        ([0, 0, loop.NOTHING_KEPT], "its own selected summaries"),
    ],
)
def test_a_card_says_what_a_model_learned_from(file, statuses, says):
    """Whatever its folder is called; where no generation kept anything, real ones."""
    record = {"rouge": np.full(3, 0.25), "perplexity": np.asarray(9.0)}
    records = [record | {"status": np.asarray(status)} for status in statuses]
    assert f"trained by synthjax on {says} " in sweep._card("run", task_of(file)[0], records)


@pytest.mark.parametrize(
    "changes",
    [
        dict(regime="accumulate", generator="greedy", k=1, verifier="lead"),
        dict(regime="subsample", selection="threshold", threshold=2.0, verifier="length"),
        dict(regime="mix", selection="best_of_k", pack=True, start="generator"),
        dict(generator="beam", verifier="self", article_loss=0.5, accumulate=2, remat=True),
    ],
)
def test_other_kinds(file, changes):
    found = summarize.run(tiny(file, generations=1, **changes))
    assert found.rouge.notnull().all() and int(found.status[1]) in (0, 3)


@pytest.fixture(scope="module")
def with_adapters(whole):
    """What makes the first generator of `whole` learn by adapters, and judge too."""
    folder = str(whole[0] / "models" / "first")
    own = {name: summarize.Spec.__dataclass_fields__[name].default for name in sweep._BASE[:6]}
    read = dict(initial="pretrained", model=folder, verifier="model", verifier_model=folder)
    return dict(learns="lora", rank=2, **read, **own)


def test_what_adapters_learned_is_exported_as_a_whole_model(whole, with_adapters, file, tmp_path):
    """Merged: the same tensors as the directory that it began with, and other numbers."""
    summarize.run(tiny(file, generations=1, **with_adapters), tmp_path / "run")
    before, after = (
        hf.load(path).params for path in (with_adapters["model"], tmp_path / "run/models/run")
    )
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (before, after)]
    assert shapes[0] == shapes[1]
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))
    assert sum(changed) == 7  # the matrices of its one layer


def test_a_directory_as_the_generator_with_adapters_and_as_verifier(with_adapters, file):
    """Only adapters learn, and the base stays as it is."""
    task, base = task_of(file, **with_adapters)
    before = jax.tree.map(np.array, base.params)
    batches = task.batches(0, task.pool(0, None, ()), 0)
    some = groups(batches, itertools.repeat(4))
    state, _ = list(task.learn(0, task.begin(0, None), some))[-1]
    merged = task.params(state)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, base.params))
    assert not jax.tree.all(jax.tree.map(np.array_equal, before, merged))
    assert jax.tree.structure(merged) == jax.tree.structure(base.params)
    guesses = task.guess(1, base.params, 0)
    assert np.isfinite(guesses["score"]).all()


def test_refusals(file, tmp_path):
    with pytest.raises(SpecError, match=r"config.n = 100: .* has \d+ training pairs"):
        summarize.estimate(tiny(file, n=100))
    with pytest.raises(DataError, match="nowhere"):
        summarize.estimate(tiny("nowhere"))
    with pytest.raises(SpecError, match=r"config.kv_heads = 2: must divide heads"):
        tiny(file, heads=1, kv_heads=2)
    with pytest.raises(
        SpecError, match=r"config.mesh.fsdp = 64: .* the \d+ devices evenly; choices: 1"
    ):
        summarize.estimate(tiny(file, mesh={**LEFT, "fsdp": 64}))
    with pytest.raises(SpecError, match=r"config.mesh.tensor = 2: .* kv_heads = 1.*; choices: 1$"):
        summarize.run(tiny(file, mesh={**LEFT, "tensor": 2}))
    with pytest.raises(SpecError, match="nothing reads it"):
        tiny(file, threshold=0.5)
    with pytest.raises(SpecError, match="must be a Hugging Face directory"):
        summarize.Spec(initial="pretrained")
    with pytest.raises(ModelError, match="is no folder"):
        summarize.run(summarize.Spec(data=file, initial="pretrained", model="gone", n=20, n_real=9))
    with pytest.raises(SpecError, match="adapt"):
        tiny(file, learns="lora")


def test_a_workdir_does_not_go_on_with_other_texts(tmp_path):
    """Checkpoints say which articles by their numbers alone."""
    file, spec = tmp_path / "pairs.jsonl", dict(generations=0, n_samples=3)
    written(file)
    summarize.run(tiny(str(file), **spec), tmp_path / "run")
    summarize.run(tiny(str(file), **spec | {"n_samples": 5}), tmp_path / "run")  # fewer are there
    lines = (tmp_path / "run" / "samples" / "run.jsonl").read_text().splitlines()
    assert len(lines) == 3
    file.write_text(file.read_text().replace("river", "sea"))
    with pytest.raises(WorkdirError, match="sha256 of texts"):
        summarize.run(tiny(str(file), **spec), tmp_path / "run")


def test_a_worker_that_imports_a_script_does_not_run_it_again(file, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match="__main__"):
        summarize.run(tiny(file))
