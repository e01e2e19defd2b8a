"""Rotary positions: the parts of a head are turned by angles that grow with the position.

Su et al., *RoFormer: enhanced transformer with rotary position embedding*, 2021.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Rotary = tuple[Float[Array, "b t head"], Float[Array, "b t head"]]  # cosines and sines, float32


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's: wavelengths over `original / low` tokens are `factor` times as long.

    Those under `original / high` stay as they are, those between change smoothly.
    """

    factor: float
    low: float
    high: float
    original: int


@functools.lru_cache
def frequencies(head: int, theta: float, scaling: RopeScaling | None) -> Float[np.ndarray, " half"]:
    """Radians a token of the pairs of a head of this width: θ^(−2i/head), where i < head/2."""
    found = theta ** -(np.arange(0, head, 2, dtype=np.float64) / head)
    if scaling:
        length = 2 * math.pi / found
        # 1 where wavelengths are short, 0 where they are long
        share = scaling.original / length - scaling.low
        share = np.clip(share / (scaling.high - scaling.low), 0, 1)
        found = found * (share + (1 - share) / scaling.factor)
    return found.astype(np.float32)


def angles(positions: Int[Array, "b t"], frequencies: Float[np.ndarray, " half"]) -> Rotary:
    """Of every token, the same for both halves of a head."""
    found = positions[..., None].astype(jnp.float32) * frequencies
    found = jnp.concatenate([found, found], -1)
    return jnp.cos(found), jnp.sin(found)


def rotated(x: Float[Array, "... h d"], rotary: Rotary) -> Float[Array, "... h d"]:
    """Rotated by the tokens' angles: the halves of a head are the two parts of its pairs."""
    cosine, sine = (part[..., None, :] for part in rotary)
    first, second = jnp.split(x, 2, -1)
    turned = jnp.concatenate([-second, first], -1)
    return (x * cosine + turned * sine).astype(x.dtype)
