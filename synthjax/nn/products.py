"""Products of matrices, in the forms that XLA for CPUs is fastest with (JAX 0.10; others alike).

Of products with more axes it makes transposes: those of a gradient take training a third longer,
those of cached decoding take four times as long as the product.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def flat(x: Float[Array, "... i"]) -> Float[Array, "n i"]:
    """All rows as those of one matrix."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def times(
    x: Float[Array, "... i"], weight: Float[Array, "o i"], dtype: jnp.dtype | None = None
) -> Float[Array, "... o"]:
    """x Wᵀ, in `dtype`, by default that of the factors."""
    # Not x @ W.T: of a single row XLA would make the transpose of W.
    found = jnp.einsum("ni,oi->no", flat(x), weight, preferred_element_type=dtype)
    return found.reshape(*x.shape[:-1], len(weight))


def for_each(x: Float[Array, "b n i j d"], y: Float[Array, "b n d s"]) -> Float[Array, "b n i j s"]:
    """x y for each b and n, of which i and j are rows."""
    b, n, i, j, d = x.shape
    return jnp.matmul(x.reshape(b, n, i * j, d), y).reshape(b, n, i, j, y.shape[-1])
