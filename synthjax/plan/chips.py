"""What chips can do, as their makers publish it."""

from typing import NamedTuple


class Chip(NamedTuple):
    """Of one chip: FLOP/s of bfloat16 matrix products, other operations/s, bytes of memory, bytes/s
    from it, and bytes/s that arrive along one axis of the mesh, from both sides.
    """

    flops: float
    vector: float
    memory: float
    bandwidth: float
    axis: float


# By JAX's `device_kind`. TPUs: docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}; of the bidirectional
# bandwidth between chips an axis has two of four (v5p: six) ports, each one way; `vector` is 4
# units for each of 8 x 128 lanes at 1.5 GHz, on v5p at 1.75 GHz in two cores (Austin et al., How to
# scale your model, 2025; v6e taken as v5e). GPUs: NVIDIA's data sheets of the H100 SXM and H200:
# dense, float32 with a fused multiplication and addition as one, one way of NVLink.
CHIPS = {
    "TPU v5 lite": Chip(197e12, 6.1e12, 16 * 2**30, 819e9, 400e9 / 4),
    "TPU v5": Chip(459e12, 14.3e12, 95 * 2**30, 2765e9, 1200e9 / 6),
    "TPU v6 lite": Chip(918e12, 6.1e12, 32 * 2**30, 1640e9, 800e9 / 4),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 33.5e12, 80e9, 3350e9, 450e9),
    "NVIDIA H200": Chip(989e12, 33.5e12, 141e9, 4800e9, 450e9),
}
