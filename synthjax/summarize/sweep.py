"""The run of a spec: every element of its sweep, the texts, and the models that come and go."""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import xarray as xr
from jax.sharding import Mesh

from synthjax import gathered
from synthjax.io import processes, storage, tensors
from synthjax.io.results import write_together
from synthjax.io.storage import Place
from synthjax.io.tensors import ModelError
from synthjax.io.watchdog import watched
from synthjax.io.workdir import Workdir, WorkdirError
from synthjax.nn import llama, sharding
from synthjax.nn.bind import Params
from synthjax.protocol import loop
from synthjax.protocol.elements import (
    FILE,
    check_batch,
    elements,
    first_of,
    goes_on,
    name_of,
    read_by,
)
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.loop import Element, Record
from synthjax.protocol.spec import SpecError, read_from, to_json
from synthjax.protocol.training_set import shuffled
from synthjax.summarize import dataset, hf, model, pairs, prepare, tokens
from synthjax.summarize.model import NONE, Language
from synthjax.summarize.pairs import DataError, split_of
from synthjax.summarize.rouge import METRICS, check_main
from synthjax.summarize.spec import Spec, reads
from synthjax.summarize.task import Base, Corpus, SummarizeTask
from synthjax.summarize.tokens import Format

# What may change in a workdir.
FREE = ("save_steps", "log_steps", "n_samples", "mesh", "remat", "accumulate")


def run(spec: Spec, workdir: str | os.PathLike | None = None) -> xr.Dataset:
    """Run every element of `spec`, generation after generation, and return the labelled results.

    With `workdir` every generation is saved (Orbax, under `checkpoints/`), a run that was
    interrupted goes on where it was, and `spec.json`, `metrics.jsonl`, `tb/` (TensorBoard),
    `models/` (Hugging Face directories), `samples/` (JSON lines) and `results.nc` are written
    there. A workdir accepts a spec with more generations or further values of axes than it was
    begun with, and computes what is new. Raises SpecError, DataError, WorkdirError,
    CheckpointError, ModelError, OutOfMemory, or Stopped after a SIGTERM.
    """
    check_main()
    with watched():
        mesh = sharding.mesh(spec.mesh)
        corpus = _checked(spec, mesh)
        bases, others = _bases(spec, mesh, corpus)  # refuses before anything is written
    if workdir is None:
        if jax.process_count() > 1:
            raise WorkdirError("several processes need a workdir that all of them see")
        with tempfile.TemporaryDirectory(prefix="synthjax-") as folder:
            return run(spec, folder)
    with watched():
        about = json.loads(to_json(spec)) | _read(spec, corpus, bases, others)
        place = Workdir(workdir, about, free=FREE, goes_on=goes_on(FREE))
    points = elements(spec, reads)
    names = [name_of(point, spec.sweep, reads) for point in points]
    under_way = [
        Element(
            name,
            SummarizeTask(point, mesh, corpus, _base_of(point, bases), others),
            first_of(point, spec.sweep, reads),
        )
        for name, point in dict(zip(names, points, strict=True)).items()
    ]
    records = {}
    settings = loop.Settings(spec.save_steps, spec.log_steps)
    for element, found, first, last in loop.run(under_way, place.path, settings):
        records[element.name] = found
        samples = place.path / "samples" / f"{element.name}.jsonl"
        processes.agreed(functools.partial(_write_samples, samples, element.task, found))
        for name, params, records_of in (
            (element.first, first, found[:1]),
            (element.name, last, found),
        ):
            folder = place.path / "models" / name
            config = folder / tensors.CONFIG  # written last
            there = processes.agreed(functools.partial(storage.exists, config))
            if name == element.name or not there:
                _export(folder, element.task, params, records_of, bases)
    results = dataset.to_dataset(spec, [records[name] for name in names])
    write_together(results, place.path / "results.nc")
    return results


def estimate(spec: Spec) -> str:
    """In words, before anything runs: how large the models are, and how much they learn and guess.

    Raises SpecError where a batch does not fit the devices or there are too few texts; DataError,
    ModelError where a file or folder cannot be used.
    """
    mesh = sharding.mesh(spec.mesh)
    corpus = _checked(spec, mesh)
    points = {name_of(point, spec.sweep, reads): point for point in elements(spec, reads)}
    firsts = {first_of(point, spec.sweep, reads): point for point in points.values()}
    sizes = set()
    for point in points.values():
        if point.initial == "pretrained":
            with read_from("model", point.model, ModelError):
                config = hf.read_config(Path(point.model))
                where = Path(point.model) / tensors.CONFIG
                architecture = hf.architecture_of(config, where)
        else:
            architecture = point.architecture(point.vocabulary)
        sizes.add(model.build(Language(architecture, (0,))).size)
    steps = sum(point.steps for point in firsts.values())
    steps += sum(point.generations * point.generation_steps for point in points.values())
    guesses = sum(point.generations * point.n * point.k for point in points.values())
    devices = mesh.devices.flat
    return (
        f"{len(points)} elements x {spec.generations} generations, first generators: "
        f"{len(firsts)}, parameters: {', '.join(f'{size:,}' for size in sorted(sizes))}; "
        f"{len(corpus.train):,} training and {min(len(corpus.test), spec.n_test):,} test pairs; "
        f"{steps:,} training steps and {guesses:,} guesses in all, "
        f"on {len(devices)} x {devices[0].device_kind}"
    )


def read_corpus(data: str) -> Corpus:
    """The pairs of `news`, of a folder that launch.prepare_data wrote, or of a JSON-lines file.

    Raises DataError.
    """
    if data == "news":
        splits = prepare.prepare("news").splits
        return Corpus(splits["train"], splits["test"])
    if data and Path(data).is_dir():  # Path("") would be the current folder
        return Corpus(*(pairs.read(Path(data) / f"{split}.jsonl") for split in ("train", "test")))
    if not os.path.lexists(data):
        raise DataError(
            "there is no such file or folder; `python -m launch.prepare_data --help` tells how to "
            "make one; choices: news, a folder that it wrote, a file of JSON lines"
        )
    every = pairs.read(data)
    return Corpus(*([p for p in every if split_of(p.id) == split] for split in ("train", "test")))


def _read(spec: Spec, corpus: Corpus, bases: Mapping, others: Mapping[str, Base]) -> dict:
    """What files held: a run must not go on with other texts or models than it began with."""
    texts = hashlib.sha256(json.dumps([corpus.train, corpus.test[: spec.n_test]]).encode())
    found = {FILE + "texts": texts.hexdigest()}
    models = {point.model: bases[_key_of(point)] for point in elements(spec, reads) if point.model}
    for folder, lm in models.items():
        found[FILE + folder] = _sha256(lm.params, lm.tokenizer)
    for folder, base in others.items():
        found[FILE + folder] = _sha256(base.params, base.format.tokenizer)
    return found


def _sha256(params: Params, tokenizer) -> str:
    symbols = tokenizer.backend_tokenizer.to_str()
    return hashlib.sha256((loop.digest(params) + symbols).encode()).hexdigest()


def _checked(spec: Spec, mesh: Mesh) -> Corpus:
    """The texts, if the spec fits them and the devices."""
    points = elements(spec, reads)
    check_batch(spec, points, sharding.rows(mesh))
    with read_from("data", spec.data, DataError):
        corpus = read_corpus(spec.data)
    for point in points:
        count = len(corpus.train)
        if point.n_real + point.n > count:
            name = max("n", "n_real", key=lambda name: getattr(point, name))
            raise SpecError(
                f"sweep.{name}" if name in spec.sweep else name,
                getattr(point, name),
                f"{spec.data} has {count} training pairs, of which n_real = {point.n_real} learn "
                f"and n = {point.n} are guessed for",
            )
    if len(corpus.test) < 2:
        raise SpecError("data", spec.data, "has no test pairs")
    return corpus


# What makes a base of our own.
_BASE = ("vocabulary", "width", "layers", "heads", "kv_heads", "feed_forward", "block", "n_real")


def _key_of(point: Spec) -> tuple:
    if point.initial == "pretrained":
        return (point.model,)
    return tuple(getattr(point, name) for name in (*_BASE, "seed"))


def _bases(spec: Spec, mesh: Mesh, corpus: Corpus) -> tuple[dict, dict[str, Base]]:
    """What first generators are made of, and the other models that verifiers ask."""
    bases: dict[tuple, hf.LM] = {}
    others: dict[str, Base] = {}
    for point in elements(spec, reads):
        if "verifier_model" in read_by(point, reads) and point.verifier_model not in others:
            with read_from("verifier_model", point.verifier_model, ModelError):
                lm = hf.load(point.verifier_model, point.precision, mesh)
                others[point.verifier_model] = _as_base(lm, point, point.verifier_model)
        if _key_of(point) not in bases:
            if point.initial == "pretrained":
                with read_from("model", point.model, ModelError):
                    lm = hf.load(point.model, point.precision, mesh)
                    _as_base(lm, point, point.model)
            else:
                lm = _scratch(point, mesh, corpus)
            bases[_key_of(point)] = lm
    return bases, others


def _base_of(point: Spec, bases: Mapping) -> Base:
    return _as_base(bases[_key_of(point)], point, point.model)


def _as_base(lm: hf.LM, point: Spec, folder: str) -> Base:
    """A model as a point of a sweep uses it."""
    architecture = lm.language.architecture
    for axis, split in (("tensor", ("heads", "kv_heads", "feed_forward")), ("fsdp", ("width",))):
        sharding.check_fit(lm.mesh, axis, {name: getattr(architecture, name) for name in split})
    if lm.tokenizer is None:
        raise ModelError(f"{folder}: has no tokenizer")
    if architecture.context < point.block:
        rule = f"{folder} was made for {architecture.context} tokens"
        raise SpecError("block", point.block, rule)
    if lm.language.eos == (NONE,):
        raise ModelError(f"{folder}/{tensors.CONFIG}: has no eos_token_id")
    language = lm.language._replace(precision=point.precision, remat=point.remat)
    format = Format(lm.tokenizer, language.eos[0], point.block, point.summary_tokens)
    return Base(language, lm.params, format)


def _scratch(point: Spec, mesh: Mesh, corpus: Corpus) -> hf.LM:
    """A Llama of our own that knows nothing, and a tokenizer of the real training texts."""
    order = shuffled(key(point.seed, Stream.REAL, 0, 0), len(corpus.train))[: point.n_real]
    real = [corpus.train[i] for i in order]
    texts = (f"{pair.text}{tokens.SEPARATOR} {pair.summary}" for pair in real)
    tokenizer = tokens.train(texts, point.vocabulary)
    architecture = point.architecture(len(tokenizer))
    language = Language(architecture, (tokenizer.eos_token_id,), point.precision)
    params = model.build(language).init(key(point.seed, Stream.LEARN, 0, 0))
    config = hf.config_of(architecture, language.eos, tokenizer.bos_token_id)
    params = sharding.put(params, sharding.places(mesh, llama.axes, params))
    return hf.LM(language, params, mesh, config, tokenizer)


def _export(folder: Place, task: SummarizeTask, params: Params, records, bases) -> None:
    """A Hugging Face directory with a model card, of the last of the generations in `records`."""
    lm = bases[_key_of(task.spec)]
    params = jax.tree.map(gathered, params)
    saved = hf.LM(task.language, params, task.mesh, lm.config, lm.tokenizer)

    def write_it():
        with storage.local(folder, last=tensors.CONFIG) as here:
            storage.write(here / "README.md", _card(folder.name, task, records))
            hf.save(saved, here)  # its config comes last: with it all is there

    processes.agreed(write_it)


def _card(name: str, task: SummarizeTask, records: Sequence[Record]) -> str:
    """A model card: what the model is, how it came about, and what was measured of it."""
    spec, record = task.spec, records[-1]
    own = any(int(of["status"]) != loop.NOTHING_KEPT for of in records[1:])
    rouge = ", ".join(f"{m} {v:.4f}" for m, v in zip(METRICS, record["rouge"], strict=True))
    settings = "\n".join(
        f"- `{field}`: `{getattr(spec, field)}`"
        for field in sorted(read_by(spec, reads) - {"sweep"})
    )
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [summarization, "
        "synthetic-data, synthjax]\n---\n\n"
        f"# {name}\n\nA language model that summarizes articles, trained by synthjax on "
        f"{'its own selected summaries' if own else 'real summaries'} "
        f"(arXiv 2406.07515). It continues `<bos>ARTICLE{tokens.SEPARATOR!r}` with a summary, for "
        "research into self-training; nothing else is claimed of it.\n\n"
        f"Measured on {len(task.test)} test articles, greedily: {rouge}; perplexity of the "
        f"references {float(record['perplexity']):.2f}.\n\n## Settings\n\n{settings}\n"
    )


def _write_samples(path: Place, task: SummarizeTask, records: Sequence[Record]) -> None:
    """Test summaries of every generation, with their ROUGE, as JSON lines."""
    lines = []
    for i, pair in enumerate(task.test[: task.spec.n_samples]):
        for t, record in enumerate(records):
            if i >= len(record["sample"]):  # measured when fewer were asked for
                continue
            row = np.asarray(record["sample"][i])
            each = np.asarray(record["sample_rouge"][i], np.float64).round(4)
            scores = dict(zip(METRICS, each.tolist(), strict=True))
            text = task.format.read(row[row != NONE])
            line = {"id": pair.id, "generation": t, "guess": text, "reference": pair.summary}
            lines.append(json.dumps({**line, **scores}, ensure_ascii=False))
    storage.make(path.parent)
    storage.write(path, "\n".join(lines) + "\n")
