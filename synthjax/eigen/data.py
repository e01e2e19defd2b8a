"""Symmetric matrices and their eigenvalues, each made from a key and its index alone.

Source: Charton, *Linear algebra with transformers* (TMLR 2022). Host code, in NumPy but for the
random numbers, so that any example can be made again anywhere.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key
from scipy.special import ndtri

from synthjax import host
from synthjax.eigen.tokens import BOS, EOS, PAD, Encoding

Host = np.ndarray
Uniform = Callable[[int], Float[Host, "n count"]]


class Examples(NamedTuple):
    """Symmetric matrices and their eigenvalues, descending; 0 past an example's own size.

    The eigenvalues are those of the matrix itself, not of its three digits. float64.
    """

    matrices: Float[Host, "n d d"]
    values: Float[Host, "n d"]
    sizes: Int[Host, " n"]


def _semicircle(u: Uniform, values: Host, sigma: float) -> Host:
    """Of the random matrix itself: Wigner's semicircle as d grows, of variance (d+1) bound²/3d."""
    return values


def _positive(u: Uniform, values: Host, sigma: float) -> Host:
    """The same without their signs."""
    return np.abs(values)


def _uniform(u: Uniform, values: Host, sigma: float) -> Host:
    """Even between −√3 σ and √3 σ."""
    return np.sqrt(3) * sigma * (2 * u(values.shape[1]) - 1)


def _gaussian(u: Uniform, values: Host, sigma: float) -> Host:
    """N(0, σ²)."""
    return sigma * ndtri(u(values.shape[1]))


def _laplace(u: Uniform, values: Host, sigma: float) -> Host:
    """Laplace's, with standard deviation σ."""
    centred = u(values.shape[1]) - 0.5
    return -sigma / np.sqrt(2) * np.sign(centred) * np.log1p(-2 * np.abs(centred))


def _positive_laplace(u: Uniform, values: Host, sigma: float) -> Host:
    """Laplace's without their signs."""
    return np.abs(_laplace(u, values, sigma))


def _marchenko_pastur(u: Uniform, values: Host, sigma: float) -> Host:
    """Of σ GGᵀ/d with G a d × d matrix of N(0, 1): Marchenko and Pastur's as d grows."""
    n, d = values.shape
    g = ndtri(u(d * d)).reshape(n, d, d)
    return sigma / d * np.linalg.svd(g, compute_uv=False) ** 2


SPECTRA = {
    "semicircle": _semicircle,
    "positive": _positive,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "laplace": _laplace,
    "positive_laplace": _positive_laplace,
    "marchenko_pastur": _marchenko_pastur,
}


@dataclasses.dataclass(frozen=True)
class Matrices:
    """The law of the matrices.

    Fields: `sizes` d, equally often; `bound` A: entries are even in [−A, A] and the matrix
    symmetric; `spectrum`: with the eigenvectors of that matrix, whose eigenvalues these become.
    σ = √d A/√3 is about the standard deviation of its own.
    """

    sizes: tuple[int, ...] = (5,)
    bound: float = 10.0
    spectrum: str = "semicircle"

    def draw(self, key: Key[Array, ""], indices: Int[Host, " n"]) -> Examples:
        """Examples number `indices` ≥ 0 of a key's; each is the same whatever else is drawn."""
        d = max(self.sizes)
        # The size, the matrix and what a spectrum takes: at most d² numbers.
        drawn = _uniforms(key, np.asarray(indices, np.uint32), 1 + d * (d + 1) // 2 + d * d)
        drawn = drawn.astype(np.float64) + 2.0**-25  # in (0, 1), on a grid of 2⁻²⁴
        n = len(drawn)
        sizes = np.array(self.sizes)[(drawn[:, 0] * len(self.sizes)).astype(int)]
        found = Examples(np.zeros((n, d, d)), np.zeros((n, d)), sizes)
        for size in self.sizes:
            rows = np.flatnonzero(sizes == size)
            matrices, values = self._of_size(size, drawn[rows, 1:])
            found.matrices[rows, :size, :size] = matrices
            found.values[rows, :size] = values
        return found

    def _of_size(self, d: int, drawn: Float[Host, "n count"]):
        count = d * (d + 1) // 2
        below = np.tril_indices(d)
        matrices = np.zeros((len(drawn), d, d))
        matrices[:, *below] = self.bound * (2 * drawn[:, :count] - 1)
        matrices[:, *below[::-1]] = matrices[:, *below]
        if self.spectrum == "semicircle":
            return matrices, np.linalg.eigvalsh(matrices)[:, ::-1]
        values, vectors = np.linalg.eigh(matrices)
        sigma = self.bound * np.sqrt(d / 3)
        values = SPECTRA[self.spectrum](lambda more: drawn[:, count : count + more], values, sigma)
        order = np.argsort(-values, 1)
        values = np.take_along_axis(values, order, 1)
        vectors = np.take_along_axis(vectors, order[:, None], 2)
        matrices = (vectors * values[:, None]) @ np.swapaxes(vectors, 1, 2)
        return (matrices + np.swapaxes(matrices, 1, 2)) / 2, values


def _uniforms(key: Key[Array, ""], indices: Int[Host, " n"], count: int) -> Float[Host, "n count"]:
    """Float32 in [0, 1), from a key for each index; made on the CPU, where what follows is done."""
    with jax.threefry_partitionable(False), jax.default_device(host()):
        return np.asarray(_drawn(key, indices, count))


@partial(jax.jit, static_argnums=2)
def _drawn(key, indices, count):
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (count,)))(indices)


def lengths(size: int, encoding: Encoding) -> tuple[int, int]:
    """Tokens of a matrix with its EOS, and of its eigenvalues with BOS and EOS."""
    return 3 + size * size * encoding.width, 4 + size * encoding.width


def source_ids(examples: Examples, encoding: Encoding) -> Int[Host, "n s"]:
    """`Vd Vd`, the entries row by row, EOS; padded to the longest that the array's size allows."""
    return _written(examples.matrices, examples.sizes, encoding, begin=0)


def target_ids(
    values: Float[Host, "n d"], sizes: Int[Host, " n"], encoding: Encoding
) -> Int[Host, "n t"]:
    """BOS, `Vd V1`, the eigenvalues, EOS; padded as `source_ids`."""
    return _written(values, sizes, encoding, begin=1)


def _written(numbers, sizes, encoding: Encoding, begin: int):
    n, d = numbers.shape[:2]
    square = numbers.ndim == 3
    ids = np.full((n, lengths(d, encoding)[begin]), PAD, np.int32)
    ids[:, 0] = BOS
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        own = numbers[rows][:, :size, :size] if square else numbers[rows][:, :size]
        tokens = encoding.encode(np.ascontiguousarray(own).reshape(len(rows), -1))
        end = begin + 2 + tokens.shape[1]
        ids[rows, begin] = 2 + size
        ids[rows, begin + 1] = 2 + (size if square else 1)
        ids[rows, begin + 2 : end] = tokens
        ids[rows, end] = EOS
    return ids


def read(
    ids: Int[Array, "... t"], size: int, encoding: Encoding
) -> tuple[Float[Array, "... size"], Float[Array, "..."]]:
    """Eigenvalues of answers for one size, written as `target_ids` after BOS; which are in form.

    A token past EOS does not count, whatever it is. On the host or on a device.
    """
    end = 2 + size * encoding.width
    values, valid = encoding.decode(ids[..., 2:end])
    formed = valid.all(-1) & (ids[..., end] == EOS)
    return values, formed & (ids[..., 0] == 2 + size) & (ids[..., 1] == 3)
