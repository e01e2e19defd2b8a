"""Makes the HLO beside it: what XLA makes of small programs for eight TPUs v5e.

    JAX_PLATFORMS=cpu python tests/plan/tpu/make.py

Needs libtpu, which tests do not. Attributes that nothing here reads are cut.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from synthjax.plan.topology import devices

HERE = Path(__file__).parent
LAYERS, WIDTH, ROWS = 6, 1024, 512  # of a program, over eight devices
CUT = r", (metadata|backend_config|frontend_attributes|origin)=\{"


def cut(text: str) -> str:
    """Without what nothing here reads; braces within braces and all."""
    module, *lines = text.splitlines()
    kept = [module.split(",")[0], ""]
    for line in lines:
        if not line.startswith(("%", "ENTRY", " ", "}")):
            continue  # tables of files and functions
        while found := re.search(CUT, line):
            depth, end = 1, found.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(line[end], 0)
                end += 1
            line = line[: found.start()] + line[end:]
        kept.append(line)
    return "\n".join(kept) + "\n"


def loss(weights, x):
    step = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
    return jax.lax.scan(step, x, weights)[0].astype(jnp.float32).sum()


def attention(q, k):
    return jnp.einsum("bqhd,bkhd->bhqk", q, k)


def main() -> None:
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,), devices=devices("v5e:2x4"))

    def struct(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P(*spec)))

    def spread(call):
        return jax.shard_map(call, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)

    weights, x = (LAYERS, WIDTH, WIDTH), struct((ROWS, WIDTH), "fsdp")
    small, queries = struct((64, 128)), struct((8, 128, 4, 64), "fsdp")
    programs = {
        "scanned": (jax.grad(loss), struct(weights), x),
        "sharded": (jax.grad(loss), struct(weights, None, "fsdp"), x),
        "attention": (attention, queries, queries),
        "psum": (spread(lambda x: jax.lax.psum(x, "fsdp")), small),
        "gather": (spread(lambda x: jax.lax.all_gather(x, "fsdp", tiled=True)), small),
        "scatter": (spread(lambda x: jax.lax.psum_scatter(x, "fsdp", tiled=True)), small),
    }
    for name, (call, *asked) in programs.items():
        text = jax.jit(call).lower(*asked).compile().as_text()
        (HERE / f"{name}.txt").write_text(cut(text))


if __name__ == "__main__":
    main()
