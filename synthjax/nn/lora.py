"""Low-rank adapters: matrices with them, and parameters with them, without them and merged.

Hu et al., *LoRA: low-rank adaptation of large language models*, 2021. Adapters are parameters
beside the matrix that they adapt: `lora_a`, A [rank, in], and `lora_b`, B [out, rank].
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from synthjax.nn.bind import Params
from synthjax.nn.products import times


@dataclasses.dataclass(frozen=True)
class Lora:
    """Adapters of `rank` r make W + (α/r) B A of a matrix W."""

    rank: int
    alpha: float


class Linear(nnx.Module):
    """x Wᵀ + b, with W [out, in] and adapters of it; initial weights as Llama's, normal of 0.02."""

    def __init__(self, inside: int, outside: int, bias: bool, dtype, lora, rngs: nnx.Rngs):
        self.dtype, self.lora = dtype, lora
        self.weight = nnx.Param(0.02 * jax.random.normal(rngs.params(), (outside, inside)))
        self.bias = nnx.Param(jnp.zeros(outside)) if bias else None
        if lora:
            drawn = jax.random.normal(rngs.params(), (lora.rank, inside))
            self.lora_a = nnx.Param(drawn / math.sqrt(inside))
            self.lora_b = nnx.Param(jnp.zeros((outside, lora.rank)))

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        """Applied."""

        def by(x, weight):
            return times(x, weight[...].astype(self.dtype))

        y = by(x, self.weight)
        if self.lora:
            y = y + by(by(x, self.lora_a), self.lora_b) * (self.lora.alpha / self.lora.rank)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


def adapters(params: Params) -> Params:
    """The adapters alone."""
    found = {}
    for name, part in params.items():
        if name.startswith("lora_"):
            found[name] = part
        elif isinstance(part, dict) and (inside := adapters(part)):
            found[name] = inside
    return found


def joined(params: Params, others: Params) -> Params:
    """Two trees of parameters as one."""
    found = dict(params)
    for name, part in others.items():
        found[name] = joined(found[name], part) if name in found else part
    return found


def merged(params: Params, lora: Lora) -> Params:
    """Parameters without adapters that compute what those with them do."""
    if "lora_a" in params:
        params = dict(params)
        a, b = params.pop("lora_a"), params.pop("lora_b")
        weight = params["weight"]
        params["weight"] = (weight + (lora.alpha / lora.rank) * (b @ a)).astype(weight.dtype)
    return {
        name: merged(part, lora) if isinstance(part, dict) else part
        for name, part in params.items()
    }
