"""Where arrays lie: one mesh with the axes `data`, `fsdp` and `tensor`, 1 × 1 × 1 on one device.

Rows of a batch are split over `data` and `fsdp`. The axes of a model's parameters have names, of
which `SPLIT` says what they are split over; what it leaves out is whole everywhere.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")
SPLIT = {"width": "fsdp", "heads": "tensor", "hidden": "tensor", "vocabulary": "tensor"}

# The names of a leaf's axes, by the last of the names that lead to it: its module's and its own.
Axes = Callable[[str, str], tuple[str, ...]]


def mesh(fsdp: int = 1, tensor: int = 1) -> Mesh:
    """All devices; `data` is what the other two axes leave.

    Along `data` each device has all of the parameters and its rows of a batch; along `fsdp` rows
    too, and a part of the parameters and of the optimizer's state; along `tensor` a part of every
    layer's work. Raises ValueError where that many devices are not there.
    """
    count = jax.device_count()
    if count % (fsdp * tensor):
        raise ValueError(f"{count} devices are no multiple of fsdp times tensor, {fsdp * tensor}")
    shape = (count // (fsdp * tensor), fsdp, tensor)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)


def rows(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def by_rows(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def put(tree: Any, places: Any) -> Any:
    """Arrays, those of the host the same in every process, laid out over the devices of all.

    `places`: a sharding for each leaf, or one for all.
    """
    if isinstance(places, NamedSharding):
        places = jax.tree.map(lambda _, place=places: place, tree)

    def one(leaf, place):
        if isinstance(leaf, jax.Array):
            if jax.process_count() == 1 or not leaf.is_fully_addressable:
                return jax.device_put(leaf, place)
            leaf = np.asarray(leaf)
        return jax.make_array_from_process_local_data(place, leaf, leaf.shape)

    return jax.tree.map(one, tree, places)


def spread(mesh: Mesh, host: Shaped[np.ndarray, "b ..."]) -> Shaped[Array, "c ..."]:
    """Rows over the devices, the last one again where they do not come out even."""
    size = rows(mesh) * -(-len(host) // rows(mesh))
    return put(host[np.minimum(np.arange(size), len(host) - 1)], by_rows(mesh))


def whole(mesh: Mesh) -> NamedSharding:
    """All of it on every device."""
    return NamedSharding(mesh, PartitionSpec())


def places(mesh: Mesh, axes: Axes, tree: Any) -> Any:
    """Where each leaf of parameters, or of what has their names inside, is to lie."""

    def place(path, leaf):
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        split = [SPLIT.get(name) for name in axes(*["", "", *names][-2:])][: len(leaf.shape)]
        fits = [
            axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(split, leaf.shape, strict=False)
        ]
        return NamedSharding(mesh, PartitionSpec(*fits))

    return jax.tree.map_with_path(place, tree)
