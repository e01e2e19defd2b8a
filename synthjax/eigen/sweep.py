"""The run of a spec: every element of its sweep, and the models that come in and go out."""

import dataclasses
import functools
import json
import os
import tempfile

import jax
import xarray as xr
from jax.sharding import Mesh

from synthjax import gathered
from synthjax.eigen import dataset, model
from synthjax.eigen.data import lengths
from synthjax.eigen.model import Language, language_of
from synthjax.eigen.spec import Spec, reads
from synthjax.eigen.task import EigenTask
from synthjax.io import processes, storage, tensors
from synthjax.io.results import write_together
from synthjax.io.storage import Place
from synthjax.io.tensors import ModelError
from synthjax.io.watchdog import watched
from synthjax.io.workdir import Workdir, WorkdirError
from synthjax.nn import sharding
from synthjax.nn.bind import Params
from synthjax.nn.seq2seq import Architecture
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
from synthjax.protocol.loop import Element
from synthjax.protocol.spec import SpecError, read_from, to_json

FREE = ("save_steps", "log_steps", "mesh")  # what may change in a workdir


def run(spec: Spec, workdir: str | os.PathLike | None = None) -> xr.Dataset:
    """Run every element of `spec`, generation after generation, and return the labelled results.

    With `workdir` every generation is saved (Orbax, under `checkpoints/`), a run that was
    interrupted goes on where it was, and `spec.json`, `metrics.jsonl`, `tb/` (TensorBoard),
    `models/` (safetensors) and `results.nc` are written there. A workdir accepts a spec with more
    generations or further values of axes than it was begun with, and computes what is new. Raises
    SpecError, WorkdirError, CheckpointError, ModelError, OutOfMemory, or Stopped after a SIGTERM.
    """
    with watched():
        mesh = _mesh(spec)
        others = _models(spec)  # refuses before anything is written
    if workdir is None:
        if jax.process_count() > 1:
            raise WorkdirError("several processes need a workdir that all of them see")
        with tempfile.TemporaryDirectory(prefix="synthjax-") as folder:
            return run(spec, folder)
    with watched():
        place = Workdir(
            workdir,
            json.loads(to_json(spec))
            | {FILE + folder: loop.digest(params) for folder, (_, params) in others.items()},
            free=FREE,
            goes_on=goes_on(FREE),
        )
    points = elements(spec, reads)
    names = [name_of(point, spec.sweep, reads) for point in points]
    under_way = [
        Element(name, EigenTask(point, mesh, others), first_of(point, spec.sweep, reads))
        for name, point in dict(zip(names, points, strict=True)).items()
    ]
    records = {}
    settings = loop.Settings(spec.save_steps, spec.log_steps)
    for element, found, first, last in loop.run(under_way, place.path, settings):
        records[element.name] = found
        for name, params in ((element.first, first), (element.name, last)):
            folder = place.path / "models" / name
            config = folder / tensors.CONFIG  # written last
            there = processes.agreed(functools.partial(storage.exists, config))
            if name == element.name or not there:
                _export(folder, element.task.language, params)
    results = dataset.to_dataset(spec, [records[name] for name in names])
    write_together(results, place.path / "results.nc")
    return results


def estimate(spec: Spec) -> str:
    """In words, before anything runs: how large the models are, and how much they learn and guess.

    Raises SpecError where a batch does not fit the devices; ModelError where a folder is no model.
    """
    mesh = _mesh(spec)
    _models(spec)
    points = {name_of(point, spec.sweep, reads): point for point in elements(spec, reads)}
    firsts = {first_of(point, spec.sweep, reads): point for point in points.values()}
    sizes = sorted({model.build(language_of(point)).size for point in points.values()})
    steps = sum(point.steps * (point.initial == "real") for point in firsts.values())
    steps += sum(point.generations * point.generation_steps for point in points.values())
    guesses = sum(point.generations * point.n * point.k for point in points.values())
    devices = mesh.devices.flat
    return (
        f"{len(points)} elements x {spec.generations} generations, first generators: "
        f"{len(firsts)}, parameters: {', '.join(f'{size:,}' for size in sizes)}; "
        f"{steps:,} training steps and {guesses:,} guesses in all, "
        f"on {len(devices)} x {devices[0].device_kind}"
    )


def _mesh(spec: Spec) -> Mesh:
    """The devices, if batches and models can be shared by them."""
    mesh, points = sharding.mesh(spec.mesh), elements(spec, reads)
    check_batch(spec, points, sharding.rows(mesh))
    for point in points:
        hidden = {"width times feed_forward": point.width * point.feed_forward}
        sharding.check_fit(mesh, "tensor", {"heads": point.heads} | hidden)
        sharding.check_fit(mesh, "fsdp", {"width": point.width})
    return mesh


def _export(folder: Place, language: Language, params: Params) -> None:
    config = language._asdict() | {"architecture": dataclasses.asdict(language.architecture)}
    params = jax.tree.map(gathered, params)
    processes.agreed(lambda: tensors.write(folder, params, config))


def load(folder: str | os.PathLike) -> tuple[Language, Params]:
    """A model that a run wrote into its `models/`. Raises ModelError where it is none."""
    params, config = tensors.read(folder)
    try:
        architecture = Architecture(**config.pop("architecture"))
        language = Language(**config, architecture=architecture)
        shapes = model.build(language).shapes
        model.numbers(language)
    except Exception as error:  # whatever a config that anybody may have written provokes
        raise ModelError(f"{folder}/{tensors.CONFIG}: is of no model of ours ({error})") from None
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    wanted = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes)
    if found != wanted:
        raise ModelError(
            f"{folder}/{tensors.TENSORS}: does not hold the tensors that {tensors.CONFIG} asks for"
        )
    return language, params


def _models(spec: Spec) -> dict[str, tuple[Language, Params]]:
    """Every model that some element reads, by its folder."""
    found = {}
    for point in elements(spec, reads):
        read = read_by(point, reads)
        for field in ("verifier_model", "generator_model"):
            folder = getattr(point, field)
            if field in read and folder not in found:
                with read_from(field, folder, ModelError):
                    found[folder] = load(folder)
        if "verifier_model" in read:
            _check_reader(point, found[point.verifier_model][0])
        if "generator_model" in read:
            theirs, ours = found[point.generator_model][0], language_of(point)
            for name, value in {**theirs._asdict(), **vars(theirs.architecture)}.items():
                own = {**ours._asdict(), **vars(ours.architecture)}[name]
                if name not in ("precision", "architecture") and value != own:
                    raise SpecError(
                        "generator_model",
                        point.generator_model,
                        f"has {name}={value!r}, and this spec {own!r}",
                    )
    return found


def _check_reader(point: Spec, theirs: Language) -> None:
    """A verifier's model must be able to read the matrices and to write the answers."""
    longest = theirs.architecture.source_length, theirs.architecture.target_length
    needed = lengths(point.size_max, model.numbers(theirs))
    if needed[0] > longest[0] or needed[1] > longest[1]:
        rule = f"is of a model for smaller matrices than {point.size_max} x {point.size_max}"
    elif theirs.high < point.numbers.high:
        rule = f"is of a model for smaller numbers than matrices with bound={point.bound:g} have"
    else:
        return
    raise SpecError("verifier_model", point.verifier_model, rule)
