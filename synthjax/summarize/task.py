"""The summarization task: what each step of a generation does (`protocol.loop.Task`)."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from synthjax import host, shared
from synthjax.nn import llama, lora, sharding, train
from synthjax.nn.bind import Params
from synthjax.nn.llama import Batch
from synthjax.nn.train import State
from synthjax.protocol import training_set
from synthjax.protocol.keys import Stream
from synthjax.protocol.keys import key as key_of
from synthjax.protocol.loop import Arrays, Record, Watchdog
from synthjax.protocol.proxy import rates
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.select import checked
from synthjax.protocol.spec import SpecError
from synthjax.protocol.training_set import Group, Source, TrainingSet
from synthjax.summarize import data, model
from synthjax.summarize.measure import diversity, first_sentence, interval, words
from synthjax.summarize.model import NONE, Language
from synthjax.summarize.pairs import Pair
from synthjax.summarize.rouge import METRICS, rouge
from synthjax.summarize.spec import SELECTIONS, Spec
from synthjax.summarize.tokens import Format
from synthjax.summarize.verify import VERIFIERS, Guessed, Numbers

Host = np.ndarray


class Base(NamedTuple):
    """What a model is made of: how it is used, its parameters on the mesh, how it reads texts."""

    language: Language
    params: Params
    format: Format


class Corpus(NamedTuple):
    """The pairs to learn from and to guess for, and those to measure with."""

    train: Sequence[Pair]
    test: Sequence[Pair]


class SummarizeTask:
    """The task of one spec without axes, on a mesh, from a base, with the other models it reads."""

    def __init__(
        self, spec: Spec, mesh: Mesh, corpus: Corpus, base: Base, others: Mapping[str, Base]
    ):
        self.spec, self.mesh, self.base, self.others = spec, mesh, base, others
        self.generations = spec.generations
        self.language, self.format = base.language, base.format
        self.test = corpus.test[: spec.n_test]
        order = training_set.shuffled(self._key(Stream.REAL, 0), len(corpus.train))
        pairs = [corpus.train[i] for i in order]
        self.real, self.rest = pairs[: spec.n_real], pairs[spec.n_real :]
        # How many examples of a generation are guesses, and how many are fresh and real.
        real = round(spec.n * spec.real_fraction) if REGIMES[spec.regime].call.real else 0
        self.n, self.n_fresh = spec.n - real, real
        self.columns = spec.block - spec.summary_tokens

    # Generate, verify, select

    def parts(self, t: int) -> int:
        """Batches of `decode_batch` articles."""
        return -(-self.n // self.spec.decode_batch)

    def guess(self, t: int, params: Params, part: int) -> Arrays:
        """k summaries for each article of a batch, [b, k, …], and the verifier's scores of them."""
        spec = self.spec
        size = min(spec.decode_batch, self.n)  # the last batch is filled up: one shape, one program
        index = part * spec.decode_batch + np.arange(size)
        count = min(size, self.n - part * spec.decode_batch)
        index = np.minimum(index, self.n - 1)
        articles = self._articles(t)
        pairs = [articles[i] for i in index]
        prompts = self.format.prompts([pair.text for pair in pairs])
        how = {}
        if spec.generator == "sample":
            key = self._key(Stream.GENERATE, t)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
            how = dict(keys=keys, temperature=spec.temperature, top_p=spec.top_p)
        found = self._generated(params, prompts, spec.k, **how)
        tokens, log_prob = found.tokens[:count], found.log_prob[:count]
        guessed = self._guessed(pairs[:count], tokens, log_prob)
        key = jax.random.fold_in(self._key(Stream.VERIFY, t), part)
        scores = VERIFIERS[spec.verifier].call(key, Numbers(spec.verifier_metric), guessed)
        return {
            "tokens": tokens.astype(np.int32),
            "log_prob": log_prob,
            "score": checked(spec.verifier, scores, np.isfinite(log_prob)),
            "rouge": guessed.rouge,
        }

    def select(self, t: int, guesses: Arrays) -> tuple[Arrays, Record]:
        """The kept guesses as `index` of their article and `target`; kept, p, φ, ψ, p* by metric.

        A guess is right where its ROUGE is above `right`, or above the median of all guesses.
        """
        spec, scores = self.spec, guesses["score"]
        n, k = scores.shape
        there = np.isfinite(guesses["log_prob"])  # fewer sequences than beams
        by_article = spec.selection == "best_of_k"
        if spec.selection == "threshold":
            scores = (scores > np.float32(spec.threshold)).astype(np.float32)
        shape = (k, n) if by_article else (1, n * k)
        flat = [x.T if by_article else x.reshape(shape) for x in (scores, there)]
        with jax.threefry_partitionable(False), jax.default_device(host()):
            keep = np.float32(spec.rate) if spec.selection == "top" else None
            key = self._key(Stream.SELECT, t)
            weights = np.asarray(SELECTIONS[spec.selection].call(key, *flat, keep)) > 0
        kept = weights.T if by_article else weights.reshape(n, k)
        article, guess = np.nonzero(kept)
        rouges = guesses["rouge"]
        least = np.full(len(METRICS), spec.right, np.float32)
        if not spec.right:
            least = np.median(rouges[there], 0)
        right, of, took = rouges > least, there[..., None], kept[..., None]
        counts = (right & of, ~right & of, right & took, ~right & took)
        record = rates(*(count.sum((0, 1)) for count in counts))
        record["right"] = least
        record["kept"] = np.asarray(kept.sum() / there.sum())
        record["rouge_guessed"] = rouges[there].mean(0)
        record["rouge_kept"] = rouges[kept].mean(0) if kept.any() else least * np.nan
        index = article.astype(np.int32)
        return {"index": index, "target": guesses["tokens"][article, guess]}, record

    def _articles(self, t: int) -> list[Pair]:
        """The pairs whose articles generation t summarizes, and after them its fresh real ones."""
        order = training_set.shuffled(self._key(Stream.FEATURES, t), len(self.rest))
        return [self.rest[i] for i in order[: self.spec.n]]

    def _generated(self, params: Params, prompts, k: int, **how):
        how["columns"] = self.columns
        length = self.spec.summary_tokens
        return model.generate(self.language, params, self.mesh, prompts, k, length, **how)

    def _guessed(self, pairs: Sequence[Pair], tokens: Int[Host, "b k t"], log_prob) -> Guessed:
        """What verifiers look at."""
        b, k = log_prob.shape
        texts = [self.format.read(row[row != NONE]) for rows in tokens for row in rows]
        every = [pair for pair in pairs for _ in range(k)]
        other = None
        if "verifier_model" in VERIFIERS[self.spec.verifier].reads:
            other = self._other(every, texts).reshape(b, k)
        found = _rouge(texts, [pair.summary for pair in every])
        lead = _rouge(texts, [first_sentence(pair.text) for pair in every])
        return Guessed(
            log_prob,
            (tokens != NONE).sum(-1),
            found.reshape(b, k, -1),
            lead.reshape(b, k, -1),
            np.array([words(text) for text in texts]).reshape(b, k),
            other,
            pairs,
            [texts[i * k : (i + 1) * k] for i in range(b)],
        )

    def _other(self, pairs: Sequence[Pair], texts: Sequence[str]):
        """The other model's mean log-probability of a token of each text."""
        language, params, format = self.others[self.spec.verifier_model]
        targets = format.targets(texts)
        lengths = [len(target) for target in targets]
        prompts = format.prompts([pair.text for pair in pairs], lengths)
        # One shape, one program: to compile another would look like being stuck.
        longest = max(len(prompt) + length for prompt, length in zip(prompts, lengths, strict=True))
        columns, found = max(self.spec.block, longest), []
        size = min(self.spec.decode_batch, self.n)
        for first in range(0, len(texts), size):
            rows = np.minimum(first + np.arange(size), len(texts) - 1)
            asked = [prompts[i] for i in rows], [targets[i] for i in rows]
            found.append(model.log_probs(language, params, self.mesh, *asked, columns))
        return np.concatenate(found)[: len(texts)] / np.array(lengths)

    # Pool, learn

    def kept(self, t: int, selected: Arrays) -> Source:
        """The selected guesses of generation t as training examples."""
        articles = self._articles(t)
        prompts = self.format.prompts([articles[i].text for i in selected["index"]])
        targets = [row[row != NONE].tolist() for row in selected["target"]]
        return data.examples(prompts, targets, self.spec.block)

    def pool(self, t: int, kept: Source | None, past: Sequence[Source]) -> TrainingSet:
        """What model t is trained on, by the regime; for t = 0 the real pairs."""
        spec = self.spec
        first = self._real(self.real)
        if t == 0:
            if not len(first):
                raise SpecError("block", spec.block, "no real summary fits into a block")
            if left := len(self.real) - len(first):
                warnings.warn(
                    f"config.block = {spec.block}: {left} of {len(self.real)} real summaries do "
                    "not fit and are left out",
                    stacklevel=2,
                )
            return TrainingSet((first,))
        fresh = self._real(self._articles(t)[self.n :]) if self.n_fresh else None
        key = self._key(Stream.SUBSAMPLE, t)
        return training_set.pool(
            REGIMES[spec.regime].call, key, spec.n, kept, [first, *past], fresh
        )

    def _real(self, pairs: Sequence[Pair]) -> Source:
        targets = self.format.targets([pair.summary for pair in pairs])
        room = [len(target) for target in targets]
        prompts = self.format.prompts([pair.text for pair in pairs], room)
        return data.examples(prompts, targets, self.spec.block)

    def steps(self, t: int) -> int:
        """How many steps model t is trained."""
        return self.spec.steps if t == 0 else self.spec.generation_steps

    def begin(self, t: int, params: Params | None) -> State:
        """The base, or the model before, in float32; or adapters of the base."""
        if self.spec.lora:
            build = model.build(self.language, self.spec.lora)
            # Jitted, or all that is adapted would be made too.
            params = jax.jit(lambda key: lora.adapters(build.init(key)))(self._key(Stream.LEARN, t))
        elif t == 0 or self.spec.start == "base":
            params = self.base.params
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
        return sharding.begun(self._trainer(t).begin, params, self._places)

    def batches(self, t: int, data_set: TrainingSet, first: int) -> Iterator[Batch]:
        """This process's rows of training batches from number `first` on."""
        spec = self.spec
        return data.batches(
            data_set,
            jax.random.fold_in(self._key(Stream.LEARN, t), 1),
            spec.batch,
            spec.block,
            range(first, self.steps(t)),
            sharding.rows_here(self.mesh, spec.batch),
            pack=spec.pack,
            article_loss=spec.article_loss,
        )

    def learn(
        self, t: int, state: State, groups: Iterator[Group]
    ) -> Iterator[tuple[State, list[train.Metrics]]]:
        """Train; the metrics come a group late."""
        fixed = self.base.params if self.spec.lora else None
        there = (
            Group(sharding.put_batches(self.mesh, group.batches, self.spec.batch), group.count)
            for group in groups
        )
        return train.steps(self._trainer(t), state, there, fixed)

    def abstract(self, t: int) -> State:
        """Shapes, dtypes and shardings of a state."""
        shapes = model.build(self.language, self.spec.lora).shapes
        shapes = lora.adapters(shapes) if self.spec.lora else shapes
        state = jax.eval_shape(self._trainer(t).begin, shapes)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            state,
            self._places(state),
        )

    def _places(self, tree):
        return sharding.places(self.mesh, llama.axes, tree)

    def params(self, state: State) -> Params:
        """The model that guesses and is measured, adapters merged."""
        if self.spec.lora:
            base = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), self.base.params)
            return lora.merged(lora.joined(base, state.params), self.spec.lora)
        return state.params

    def _trainer(self, t: int) -> train.Trainer:
        found = model.trainer(self.language, self.spec.lora, self.spec.schedule(t))
        return found._replace(several=sharding.on(self.mesh, found.several))

    # Measure

    def measure(self, t: int, params: Params, watchdog: Watchdog) -> Record:
        """ROUGE of greedy summaries of the test articles, how diverse they are; perplexity.

        `sample` are the first summaries' tokens, `sample_rouge` their ROUGE.
        """
        spec, test = self.spec, self.test
        size = min(spec.decode_batch, len(test))
        tokens, total, count = [], 0.0, 0
        prompts = self.format.prompts([pair.text for pair in test])
        targets = self.format.targets([pair.summary for pair in test])
        asked = self.format.prompts([pair.text for pair in test], [len(one) for one in targets])
        for first in range(0, len(test), size):
            rows = np.minimum(first + np.arange(size), len(test) - 1)  # one shape, one program
            own = min(size, len(test) - first)
            found = self._generated(params, [prompts[i] for i in rows], 1)
            tokens.append(found.tokens[:own, 0])
            fit = [i for i in rows[:own] if len(asked[i]) + len(targets[i]) <= spec.block]
            if fit:
                told = [targets[i] for i in fit]
                before = [asked[i] for i in fit]
                filled = [part + part[-1:] * (size - len(part)) for part in (before, told)]
                each = model.log_probs(
                    self.language, params, self.mesh, *filled, columns=spec.block
                )
                total -= each[: len(fit)].sum(dtype=np.float64)
                count += sum(map(len, told))
            watchdog.beat()
        watchdog.phase()
        tokens = np.concatenate(tokens)
        texts = [self.format.read(row[row != NONE]) for row in tokens]
        scores = _rouge(texts, [pair.summary for pair in test])
        mean, low, high = interval(scores, spec.seed)
        return {
            "rouge": mean,
            "rouge_low": low,
            "rouge_high": high,
            "perplexity": np.exp(total / count) if count else np.asarray(np.nan),
            **diversity(texts),
            "sample": tokens[: spec.n_samples],
            "sample_rouge": scores[: spec.n_samples],
        }

    def words(self, record: Record) -> str:
        """A record in a line."""
        each = zip(("1", "2", "L"), record["rouge"], strict=True)
        text = "ROUGE " + ", ".join(f"{name}: {value:.4f}" for name, value in each)
        text += f"; perplexity {record['perplexity']:.1f}, {record['words']:.1f} words, "
        text += f"{record['same']:.1%} the same as another, entropy {record['entropy']:.2f} bits"
        if "kept" in record:
            at = METRICS.index(self.spec.verifier_metric)
            p, p_star = (record[name][at] for name in ("p_hat", "p_star_hat"))
            before, after = (record[name][at] for name in ("rouge_guessed", "rouge_kept"))
            text += (
                f"; kept {record['kept']:.1%} of the guesses, {METRICS[at]} {before:.4f} -> "
                f"{after:.4f}, p = {p:.3f} against p* = {p_star:.3f}"
            )
        return text

    def lower(self, phase: str) -> str:
        """Which fields to change where memory is short."""
        return {
            "learning": "set config.remat=True or config.learns=lora, lower config.batch, or raise "
            "config.accumulate",
            "generating": "lower config.decode_batch or config.k, in another workdir",
            "measuring": "lower config.decode_batch, in another workdir",
        }[phase]

    def _key(self, stream: Stream, t: int) -> Any:
        return key_of(self.spec.seed, stream, 0, t)


def _rouge(texts: Sequence[str], references: Sequence[str]) -> Float[Host, "n 3"]:
    """ROUGE, of which each process computes a part."""

    def some(rows):
        return rouge([texts[i] for i in rows], [references[i] for i in rows])

    return shared(some, len(texts))
