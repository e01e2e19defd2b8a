"""Where arrays lie: one mesh with the axes `data`, `fsdp` and `tensor`, 1 × 1 × 1 on one device."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")


def mesh() -> Mesh:
    """All devices along `data`: each has a whole model and its rows of a batch."""
    return jax.make_mesh((jax.device_count(), 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)


def by_rows(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def whole(mesh: Mesh) -> NamedSharding:
    """All of it on every device."""
    return NamedSharding(mesh, PartitionSpec())
