"""Where arrays lie: one mesh with the axes `data`, `fsdp` and `tensor`, 1 × 1 × 1 on one device.

Along `data` each device has all of the parameters and its rows of a batch; along `fsdp` rows too,
and a part of the parameters and of the optimizer's state; along `tensor` a part of every layer's
work. The axes of parameters and of activations have names, of which `SPLIT` says over what they are
split; what it leaves out is whole everywhere.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from synthjax.protocol.spec import SpecError

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")
SPLIT = {
    "rows": ROWS,
    "width": "fsdp",
    "heads": "tensor",
    "hidden": "tensor",
    "vocabulary": "tensor",
}
LEFT = {"data": -1, "fsdp": 1, "tensor": 1}  # −1: all devices that the other axes leave

MESH = (
    "devices along each axis: data has rows of its own, fsdp too and a part of the parameters, "
    "tensor a part of every layer's work; -1 is what the others leave"
)

# The names of a leaf's axes, by the last of the names that lead to it: its module's and its own.
Axes = Callable[[str, str], tuple[str, ...]]


def mesh(sizes: Mapping[str, int] = LEFT, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of these sizes, by default over all devices of all processes.

    Raises SpecError, naming `config.mesh`, where it does not fit them.
    """
    devices = jax.devices() if devices is None else devices
    shape = shape_of(sizes, len(devices))
    # A torus of 4 x 4 x 4 chips has no axis of 8 unless one of its own is split.
    placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def shape_of(sizes: Mapping[str, int], count: int) -> tuple[int, ...]:
    """The sizes of all axes on so many devices, −1 being what the others leave: of two, `data` 1.

    Raises SpecError, naming `config.mesh`, where they do not fit.
    """
    left = [axis for axis in AXES if sizes[axis] == -1]
    if left[0:1] == ["data"] and len(left) > 1:
        sizes, left = {**sizes, "data": 1}, left[1:]
    given = [axis for axis in AXES if axis not in left]
    if len(left) > 1:
        raise SpecError(f"mesh.{left[-1]}", -1, f"mesh.{left[0]} is -1 too: give one a number")
    fixed = math.prod(sizes[axis] for axis in given)
    if count % fixed if left else count != fixed:
        axis = max(given, key=lambda axis: sizes[axis])
        others = fixed // sizes[axis]
        fits = [
            n
            for n in _divisors(count)
            if (count % (n * others) == 0 if left else n * others == count)
        ]
        rule = f"the mesh must share out the {count} devices evenly"
        rule += "" if fits else f"; no number of devices does so with {others} along the others"
        raise SpecError(f"mesh.{axis}", sizes[axis], rule, map(str, fits))
    return tuple(count // fixed if axis in left else sizes[axis] for axis in AXES)


def check_fit(mesh: Mesh, axis: str, sizes: Mapping[str, int]) -> None:
    """Raises SpecError where an axis of the mesh does not divide what it splits, given by name."""
    parts = mesh.shape[axis]
    if any(size % parts for size in sizes.values()):
        known = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        fits = map(str, _divisors(math.gcd(*sizes.values())))
        raise SpecError(f"mesh.{axis}", parts, f"must divide the model's {known}", fits)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def rows(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def by_rows(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def rows_here(mesh: Mesh, size: int) -> Int[np.ndarray, " r"]:
    """Which of a batch's rows lie on devices of this process."""
    places = by_rows(mesh).addressable_devices_indices_map((size,)).values()
    spans = sorted({place[0].indices(size)[:2] for place in places})
    return np.concatenate([np.arange(*span) for span in spans])


def put_batches(mesh: Mesh, batches: Any, size: int) -> Any:
    """Batches of `size` rows, along a leading axis, each by rows over the devices.

    Of each batch a process brings its `rows_here`.
    """
    place = NamedSharding(mesh, PartitionSpec(None, ROWS))
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            place, leaf, (len(leaf), size, *leaf.shape[2:])
        ),
        batches,
    )


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


def begun(begin: Callable[[Any], Any], params: Any, places: Callable[[Any], Any]) -> Any:
    """What `begin` makes of parameters, each part of it made where it is to lie."""
    made = jax.jit(begin, out_shardings=places(jax.eval_shape(begin, params)))
    return made(put(params, places(params)))


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
        return NamedSharding(mesh, _split(mesh, axes(*["", "", *names][-2:]), leaf.shape))

    return jax.tree.map_with_path(place, tree)


def on(mesh: Mesh, function: Callable) -> Callable:
    """A jitted function whose activations lie on the mesh as `constrain` says."""

    @functools.wraps(function)
    def call(*args):
        with jax.set_mesh(mesh):
            return function(*args)

    return call


def constrain(x: Shaped[Array, "..."], *names: str) -> Shaped[Array, "..."]:
    """An activation whose axes have these names, laid out over the mesh that it is computed on."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, _split(mesh, names, x.shape))


def pieces(shape: Sequence[int], *names: str) -> int:
    """Among how many devices of the mesh an activation of this shape is split; names as above."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    over = [axis for axis in _split(mesh, names, shape) if axis]
    axes = [one for axis in over for one in ((axis,) if isinstance(axis, str) else axis)]
    return math.prod(mesh.shape[axis] for axis in axes)


def _split(mesh, names: Sequence[str], shape: Sequence[int]) -> PartitionSpec:
    """Axes by their names, whole where the mesh does not divide them."""

    def fit(name, size):
        axis = SPLIT.get(name)
        over = (axis,) if isinstance(axis, str) else axis or ()
        return axis if size % math.prod(mesh.shape[one] for one in over) == 0 else None

    return PartitionSpec(*(fit(name, size) for name, size in zip(names, shape, strict=False)))
