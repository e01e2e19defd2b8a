"""What chips can do, as their makers publish it."""

from typing import NamedTuple


class Chip(NamedTuple):
    """Of one chip: FLOP/s of bfloat16 matrix products, bytes of memory, bytes/s from it, and
    bytes/s that arrive along one axis of the mesh, from both sides.
    """

    flops: float
    memory: float
    bandwidth: float
    axis: float


# By JAX's `device_kind`. TPUs: docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}, of whose bidirectional
# bandwidth between chips an axis has two of four (v5p: six) ports, each one way. GPUs: NVIDIA's data
# sheets of the H100 SXM and H200, dense, one way of NVLink.
CHIPS = {
    "TPU v5 lite": Chip(197e12, 16 * 2**30, 819e9, 400e9 / 4),
    "TPU v5": Chip(459e12, 95 * 2**30, 2765e9, 1200e9 / 6),
    "TPU v6 lite": Chip(918e12, 32 * 2**30, 1640e9, 800e9 / 4),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80e9, 3350e9, 450e9),
    "NVIDIA H200": Chip(989e12, 141e9, 4800e9, 450e9),
}
