"""The programs of a spec, as a run compiles them, on a mesh whose devices need not be there."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from synthjax import eigen, mixture, summarize
from synthjax.eigen import model as eigen_model
from synthjax.mixture import sweep as mixture_sweep
from synthjax.nn import llama, lora, seq2seq, sharding
from synthjax.nn.seq2seq import Batch
from synthjax.plan.cost import Program
from synthjax.protocol.elements import check_batch, elements
from synthjax.summarize import hf
from synthjax.summarize import model as summarize_model
from synthjax.summarize.model import Language

KNOWN = Path(__file__).parents[2] / "configs" / "models"  # their config.json alone


def programs(spec: Any, devices: Sequence[jax.Device]) -> list[Program]:
    """What a run of the first point of a spec's sweep compiles for these devices.

    Raises SpecError where the spec does not fit them, ModelError where a model is not known.
    """
    if isinstance(spec, mixture.Spec):
        return _mixture(spec, devices)
    mesh = sharding.mesh(spec.mesh, devices)
    make = _eigen if isinstance(spec, eigen.Spec) else _summarize
    return make(spec, mesh)


def meshes(spec: Any, count: int) -> list[dict[str, int]]:
    """Every mesh of so many devices that the spec's batch and model fit."""
    sizes = [n for n in range(1, count + 1) if count % n == 0]
    found = []
    for fsdp in sizes:
        for tensor in sizes:
            if count % (fsdp * tensor) == 0:
                found.append({"data": count // (fsdp * tensor), "fsdp": fsdp, "tensor": tensor})
    rows = spec.batch // spec.accumulate
    return [one for one in found if rows % (one["data"] * one["fsdp"]) == 0]


def _mixture(spec: mixture.Spec, devices: Sequence[jax.Device]) -> list[Program]:
    """The programs of a sweep, each with its largest chunk."""
    layout = mixture_sweep.layout_of(spec, devices)
    found = {}
    for chunk in layout.chunks:
        group, tile = layout.groups[chunk.group], layout.tiles[chunk.group]
        size = math.prod(chunk.shape)
        name = f"sweep step {chunk.group}"
        if name in found and found[name].counts["trajectories"] >= size:
            continue

        def lower(group=group, chunk=chunk, tile=tile):
            asked = mixture_sweep.arguments(group, chunk, tile, list(devices), None)
            return mixture_sweep.run_tiles.lower(*asked)

        counts = {
            "trajectories": size,
            "trajectory_generations": size * (group.static.generations - group.static.first + 1),
        }
        found[name] = Program(name, lower, counts)
    return list(found.values())


def _eigen(spec: eigen.Spec, mesh: Mesh) -> list[Program]:
    point = elements(spec, eigen.spec.reads)[0]
    check_batch(point, [point], sharding.rows(mesh))
    hidden = {"width times feed_forward": point.width * point.feed_forward}
    sharding.check_fit(mesh, "tensor", {"heads": point.heads} | hidden)
    sharding.check_fit(mesh, "fsdp", {"width": point.width})
    language = eigen_model.language_of(point)
    a, shapes = language.architecture, eigen_model.build(language).shapes
    trainer = eigen_model.trainer(language, point.schedule(0))
    batch = Batch(*(_rows(mesh, point.batch, n) for n in (a.source_length, a.target_length)))
    state = _placed(mesh, seq2seq.axes, jax.eval_shape(trainer.begin, shapes))
    params = _placed(mesh, seq2seq.axes, shapes)
    rows = _even(mesh, point.decode_batch)
    source, out = _rows(mesh, rows, a.source_length), a.target_length - 1
    read, written = _products(shapes, a)
    asked = [source]
    if point.generator == "beam":
        decode = eigen_model.beam_program(language, point.k)
    else:
        decode = eigen_model.sample_program(language, point.k, point.top_p < 1)
        asked += [_keys(mesh, rows), np.float32(point.temperature), np.float32(point.top_p)]
    needed = point.batch * (read * a.source_length + written * out)
    guessed = rows * (read * a.source_length + point.k * written * out)
    return [
        Program(
            "training step",
            lambda: _lower(mesh, trainer.step, state, batch, None),
            {"examples": point.batch, "tokens": point.batch * (a.source_length + out)},
            6 * needed,
            point.generation_steps,
        ),
        Program(
            "decoding",
            lambda: _lower(mesh, decode, params, *asked),
            {"guesses": rows * point.k, "tokens": rows * point.k * out},
            2 * guessed,
            -(-point.n // rows),
        ),
    ]


def _products(shapes: Mapping[str, Any], a: seq2seq.Architecture) -> tuple[int, int]:
    """Parameters that a token read and a token written are multiplied with."""
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    told = sum(size(layer["tell"]) for layer in shapes["decoder"].values())
    return size(shapes["encoder"]) + told, size(shapes["decoder"]) - told + a.vocabulary * a.width


def _summarize(spec: summarize.Spec, mesh: Mesh) -> list[Program]:
    point = elements(spec, summarize.spec.reads)[0]
    check_batch(point, [point], sharding.rows(mesh))
    language = _language(point)
    a = language.architecture
    split = {"tensor": ("heads", "kv_heads", "feed_forward"), "fsdp": ("width",)}
    for axis, names in split.items():
        sharding.check_fit(mesh, axis, {name: getattr(a, name) for name in names})
    trainer = summarize_model.trainer(language, point.lora, point.schedule(0))
    shapes = summarize_model.build(language, point.lora).shapes
    learned = lora.adapters(shapes) if point.lora else shapes
    whole = summarize_model.build(language).shapes
    state = _placed(mesh, llama.axes, jax.eval_shape(trainer.begin, learned))
    params = _placed(mesh, llama.axes, whole)
    ints = _rows(mesh, point.batch, point.block)
    told = _rows(mesh, point.batch, point.block, dtype=jnp.float32)
    batch = llama.Batch(ints, told, *([ints, ints] if point.pack else []))
    rows, columns = _even(mesh, point.decode_batch), point.block - point.summary_tokens
    out, k = point.summary_tokens, point.k if point.generator != "greedy" else 1
    asked = [_rows(mesh, rows, columns), _rows(mesh, rows), _rows(mesh, rows, 1)]
    if point.generator == "sample":
        decode = summarize_model.sample_program(language, k, out, point.top_p < 1)
        raw = jax.ShapeDtypeStruct((rows, 2), jnp.uint32, sharding=sharding.by_rows(mesh))
        asked += [raw, np.float32(point.temperature), np.float32(point.top_p)]
    else:
        decode = summarize_model.beam_program(language, k, out)
    head = a.vocabulary * a.width
    size = summarize_model.build(language).size
    size -= 0 if a.tied else head  # what is looked up is not multiplied
    guessed = rows * ((size - head) * columns + size * k * out)  # prompts need no output
    return [
        Program(
            "training step",
            lambda: _lower(mesh, trainer.step, state, batch, params if point.lora else None),
            {"examples": point.batch, "tokens": point.batch * point.block},
            6 * size * point.batch * point.block,
            point.generation_steps,
        ),
        Program(
            "decoding",
            lambda: _lower(mesh, decode, params, *asked),
            {"guesses": rows * k, "tokens": rows * k * out},
            2 * guessed,
            -(-point.n // rows),
        ),
    ]


def _language(point: summarize.Spec) -> Language:
    """The model of a spec, which need not be here where its architecture is known."""
    if point.initial == "scratch":
        architecture = point.architecture(point.vocabulary)
    else:
        folder = Path(point.model)
        folder = (
            folder if folder.is_dir() or not (KNOWN / folder.name).is_dir() else KNOWN / folder.name
        )
        architecture = hf.architecture_of(hf.read_config(folder), folder / hf.CONFIG)
    return Language(architecture, (0,), point.precision, point.remat)


def _lower(mesh: Mesh, function: Any, *args) -> jax.stages.Lowered:
    with jax.set_mesh(mesh):
        return function.lower(*args)


def _placed(mesh: Mesh, axes: sharding.Axes, tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        sharding.places(mesh, axes, tree),
    )


def _even(mesh: Mesh, count: int) -> int:
    """A batch as `sharding.spread` fills it up."""
    return sharding.rows(mesh) * -(-count // sharding.rows(mesh))


def _rows(mesh: Mesh, count: int, *columns: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *columns), dtype, sharding=sharding.by_rows(mesh))


def _keys(mesh: Mesh, count: int) -> jax.ShapeDtypeStruct:
    kind = jax.random.key(0, impl="threefry2x32").dtype
    return jax.ShapeDtypeStruct((count,), kind, sharding=sharding.by_rows(mesh))
