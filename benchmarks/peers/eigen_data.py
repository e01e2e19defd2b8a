"""Matrices and their eigenvalues as tokens, one example at a time, as a plain data loader does."""

import numpy as np


def make(rng: np.random.Generator, d: int, bound: float, ids: dict[str, int]) -> tuple[list, list]:
    """The ids of one matrix and of its eigenvalues in P1000."""
    matrix = np.zeros((d, d))
    below = np.tril_indices(d)
    matrix[below] = rng.uniform(-bound, bound, len(below[0]))
    matrix = matrix + np.tril(matrix, -1).T
    values = np.sort(np.linalg.eigvalsh(matrix))[::-1]
    source = [ids[f"V{d}"], ids[f"V{d}"], *_tokens(matrix.ravel(), ids), ids["</s>"]]
    target = [ids["<s>"], ids[f"V{d}"], ids["V1"], *_tokens(values, ids), ids["</s>"]]
    return source, target


def _tokens(numbers, ids) -> list[int]:
    found = []
    for x in numbers:
        mantissa, exponent = f"{abs(x):.2e}".split("e")
        digits = mantissa.replace(".", "").lstrip("0") or "0"
        exponent = int(exponent) - 2 if digits != "0" else 0
        found += [ids["-" if x < 0 else "+"], ids[digits], ids[f"E{exponent}"]]
    return found
