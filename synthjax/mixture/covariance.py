"""Σ of the features: isotropic, a power-law spectrum along the axes, or that spectrum rotated.

Everything that decides a trajectory is placed in whitened coordinates z = Σ^(−1/2) x ~ N(0, I):
a classifier w acts on x as u = Σ^(1/2) w acts on z, so angles and overlaps in the Σ inner product
are the Euclidean ones of u, and w*, g, v are placed as u = e₀, … whatever Σ is. What Σ changes is
the learner, whose penalty ‖w‖² is uᵀ Σ⁻¹ u.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from synthjax.protocol.spec import Kind


class Covariance(NamedTuple):
    """Σ^(1/2) and Σ^(−1/2), symmetric: None for the identity, [d] diagonal, [d, d] dense."""

    root: Float[Array, "..."] | None
    inverse_root: Float[Array, "..."] | None


def times(root: Float[Array, "..."] | None, rows: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """`rows` times a root, each row by itself."""
    if root is None:
        return rows
    return rows * root if root.ndim == 1 else rows @ root


def spectrum(d: int, decay: Float[Array, ""] | float) -> Float[Array, " d"]:
    """Eigenvalues of Σ, largest first: ∝ (j+1)^(−decay), scaled to a mean of 1."""
    values = jnp.arange(1, d + 1, dtype=jnp.float32) ** -jnp.asarray(decay, jnp.float32)
    return values / values.mean()


@functools.cache
def rotation(d: int) -> Float[np.ndarray, "d d"]:
    """The rotation of `dense`, one for each d: Haar-random by NumPy's `default_rng(d)`, float32.

    Column j is the principal axis with the j-th eigenvalue. On the host, because LAPACK under vmap
    in a loop hangs on a CPU with JAX 0.10.
    """
    q, r = np.linalg.qr(np.random.default_rng(d).standard_normal((d, d)))
    return (q * np.sign(np.diag(r))).astype(np.float32)  # without the signs it is not Haar


def isotropic(decay: Float[Array, ""], d: int, axes: None) -> Covariance:
    """Σ = I."""
    return Covariance(None, None)


def diagonal(decay: Float[Array, ""], d: int, axes: None) -> Covariance:
    """Σ = diag(spectrum): w*, g and v lie along the three principal axes of most variance."""
    root = jnp.sqrt(spectrum(d, decay))
    return Covariance(root, 1 / root)


def dense(decay: Float[Array, ""], d: int, axes: Float[Array, "d d"]) -> Covariance:
    """Σ = R diag(spectrum) Rᵀ, R = `axes`: w*, g and v lie across all principal axes."""
    root = jnp.sqrt(spectrum(d, decay))
    return Covariance((axes * root) @ axes.T, (axes / root) @ axes.T)


COVARIANCES = {
    "isotropic": Kind(isotropic, (), "Σ = I"),
    "diagonal": Kind(
        diagonal, ("covariance_decay",), "eigenvalue j ∝ (j+1)^-covariance_decay along axis j"
    ),
    "dense": Kind(
        dense, ("covariance_decay",), "the same eigenvalues along random axes, one set for each d"
    ),
}
