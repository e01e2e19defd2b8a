"""p, φ, ψ and p* with 95 % intervals, from counts or from any labelled sample of one's own.

A generator guesses, a verifier keeps or drops each guess. With `right` and `wrong` the numbers of
right and wrong guesses, `kept_right` and `kept_wrong` those that were kept:

    p  = P(wrong)          = wrong / (right + wrong)
    φ  = P(kept | right)   = kept_right / right
    ψ  = P(kept | wrong)   = kept_wrong / wrong
    p* = 1 / (1 + ψ/φ)     = φ / (φ + ψ)                the breakdown point

Source: Feng, Dohmatob, Yang, Charton, Kempe, "Beyond Model Collapse: Scaling Up with Synthesized
Data Requires Verification", arXiv 2406.07515: the theorem on Gaussian mixtures, and p* as a proxy
for any other task. Everything here is NumPy in float64 on the host.
"""

import json
import math
import os
import stat
from array import array
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Shaped

_Z = NormalDist().inv_cdf(0.975)  # two-sided 95 %
_LONGEST_LINE = 1 << 20  # bytes, so that a file without line ends cannot fill the memory
_FIELDS = ("correct", "kept")


class SampleError(ValueError):
    """A labelled sample that cannot be measured; the message is one line."""


def rates(
    right: Shaped[np.ndarray, "..."],
    wrong: Shaped[np.ndarray, "..."],
    kept_right: Shaped[np.ndarray, "..."],
    kept_wrong: Shaped[np.ndarray, "..."],
) -> dict[str, Float[np.ndarray, "..."]]:
    """Estimates and 95 % intervals of p, φ, ψ and p* from counts of any (broadcastable) shape.

    Returns `p_hat, phi_hat, psi_hat, p_star_hat`, each followed by `_low` and `_high`
    (`p_hat_low`, ...), the variables of results.nc: float64 probabilities of the counts' shape.
    What the counts leave undefined is NaN, its interval too: φ where nothing is right, ψ where
    nothing is wrong, p* where either is or nothing was kept.

    Intervals: Wilson's score interval for p, φ, ψ. For p*, the ratio φ/ψ gets the limits of
    Donner and Zou, "Closed-form confidence intervals for functions of the normal mean and standard
    deviation", Stat. Methods Med. Res. 21 (2012), built from the two Wilson intervals (MOVER).

    Raises:
      SampleError: a count is negative, or more are kept than there are.
    """
    right, wrong, kept_right, kept_wrong = (
        np.asarray(count, np.float64) for count in (right, wrong, kept_right, kept_wrong)
    )
    for name, kept, count in (("right", kept_right, right), ("wrong", kept_wrong, wrong)):
        if np.any((kept < 0) | (kept > count)):
            raise SampleError(f"kept_{name} must lie between 0 and {name}")

    p = _share(wrong, right + wrong)
    phi, phi_low, phi_high = _share(kept_right, right)
    psi, psi_low, psi_high = _share(kept_wrong, wrong)
    either = phi + psi
    p_star = phi / np.where(either > 0, either, np.nan)
    undefined = np.isnan(p_star)
    # 1 - p* = ψ/(φ + ψ): the upper limit is the lower one with right and wrong exchanged.
    p_star_low = np.where(undefined, np.nan, _p_star_low(phi, phi_low, psi, psi_high))
    p_star_high = np.where(undefined, np.nan, 1 - _p_star_low(psi, psi_low, phi, phi_high))

    found = {
        "p_hat": p,
        "phi_hat": (phi, phi_low, phi_high),
        "psi_hat": (psi, psi_low, psi_high),
        "p_star_hat": (p_star, p_star_low, p_star_high),
    }
    return {
        name + suffix: value
        for name, values in found.items()
        for suffix, value in zip(("", "_low", "_high"), values, strict=True)
    }


def measure(
    correct: Bool[np.ndarray, "..."], kept: Bool[np.ndarray, "..."]
) -> dict[str, int | float | str]:
    """Everything the proxy says about one labelled sample.

    Args:
      correct: whether each guess is right, booleans or 0/1.
      kept: whether the verifier kept it, the same shape.

    Returns:
      The counts `right, wrong, kept_right, kept_wrong`; all of `rates`; `precision`, the share of
      right guesses among the kept, with `precision_low` and `precision_high` (Wilson, 95 %); and
      `helps`: "yes" | "no" | "undecided", whether training on the selection is predicted to help.

    p < p* holds exactly if among the kept more guesses are right than wrong, so `helps` is "yes"
    where the whole interval of the precision lies above 1/2, "no" where it lies below, and
    "undecided" where more labelled examples are needed or none was kept. What is predicted is the
    theorem of arXiv 2406.07515 for Gaussian data: with enough data a classifier trained on the
    selection tends to accuracy 1 if p < p* and to 0 if p > p*, provided that being wrong is
    independent of the input, and being kept depends on it only through right or wrong. For any
    other task p* is the paper's proxy, not a theorem.

    Raises:
      SampleError: shapes differ, or a value is neither true nor false.
    """
    correct, kept = np.asarray(correct), np.asarray(kept)
    if correct.shape != kept.shape:
        raise SampleError(
            f"correct has shape {correct.shape} and kept {kept.shape}; they must agree"
        )
    for name, values in zip(_FIELDS, (correct, kept), strict=True):
        if not np.all((values == 0) | (values == 1)):
            raise SampleError(f"every value of {name} must be true or false (or 1 or 0)")
    correct, kept = correct.astype(bool), kept.astype(bool)
    counts = {
        "right": int(np.sum(correct)),
        "wrong": int(np.sum(~correct)),
        "kept_right": int(np.sum(correct & kept)),
        "kept_wrong": int(np.sum(~correct & kept)),
    }
    found = {name: float(value) for name, value in rates(**counts).items()}
    precision, low, high = map(
        float, _share(counts["kept_right"], counts["kept_right"] + counts["kept_wrong"])
    )
    return {
        **counts,
        **found,
        "precision": precision,
        "precision_low": low,
        "precision_high": high,
        "helps": "yes" if low > 0.5 else "no" if high < 0.5 else "undecided",
    }


def report(measured: Mapping[str, int | float | str]) -> str:
    """What `measure` returned as a table of a dozen lines and a sentence, for people."""
    right, wrong, kept_right, kept_wrong = (
        measured[name] for name in ("right", "wrong", "kept_right", "kept_wrong")
    )
    lines = [
        f"{'':9}{'all':>12}{'right':>12}{'wrong':>12}",
        f"{'examples':9}{right + wrong:>12}{right:>12}{wrong:>12}",
        f"{'kept':9}{kept_right + kept_wrong:>12}{kept_right:>12}{kept_wrong:>12}",
        "",
        f"{'':33}{'estimate':>8}   95 % interval",
    ]
    for symbol, meaning, name in (
        ("p", "wrong", "p_hat"),
        ("φ", "kept, if right", "phi_hat"),
        ("ψ", "kept, if wrong", "psi_hat"),
        ("p*", "breakdown point", "p_star_hat"),
        ("", "right, if kept (precision)", "precision"),
    ):
        value, low, high = (measured[name + suffix] for suffix in ("", "_low", "_high"))
        interval = "undefined" if math.isnan(value) else f"{low:.4f} to {high:.4f}"
        lines.append(f"{symbol:4}{meaning:29}{value:>8.4f}   {interval}")
    verdict = {
        "yes": "is predicted to help: p < p*, of the kept more are right than wrong.",
        "no": "is predicted not to help: p > p*, of the kept more are wrong than right.",
        "undecided": "may help or not: so few examples do not tell whether p < p*; label more.",
    }[measured["helps"]]
    if not kept_right + kept_wrong:  # which more labels would hardly change
        verdict = "is impossible: nothing was kept."
    return "\n".join(
        [
            *lines,
            "",
            f"Training on the selection {verdict}",
            "(A theorem on Gaussian data, arXiv 2406.07515; elsewhere p* is the paper's proxy.)",
        ]
    )


def read_jsonl(path: str | os.PathLike) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Reads `correct` and `kept` from a JSON-lines file, one example a line.

    Each line is an object in which both fields are true or false (or 1 or 0); other fields and
    blank lines are ignored. The file is streamed: two bytes are held for every example.

    Raises:
      SampleError: the file cannot be read, is no regular file, is not UTF-8, holds no example, or
        holds a malformed line (the first five are named).
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for a writer
            raise SampleError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            return _read_lines(file, path)
    except OSError as error:
        raise SampleError(f"{path}: {error.strerror}") from error


def _read_lines(file, path):
    correct, kept, malformed, number = array("b"), array("b"), [], 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            malformed.append(number)
            while line and not line.endswith(b"\n"):
                line = file.readline(_LONGEST_LINE)
            continue
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise SampleError(f"{path}: line {number} is not UTF-8 text") from error
        if example := _parse(text):
            correct.append(example[0])
            kept.append(example[1])
        elif text:
            malformed.append(number)
    if malformed:
        first = ", ".join(map(str, malformed[:5])) + (", ..." if len(malformed) > 5 else "")
        raise SampleError(
            f"{path}: {len(malformed)} malformed of {number} lines (line {first}); each must be a "
            f"JSON object under 1 MiB with correct and kept true or false (or 1 or 0)"
        )
    if not correct:
        raise SampleError(f"{path}: no examples")
    return np.frombuffer(correct, bool), np.frombuffer(kept, bool)


def _parse(line: str) -> tuple[int, int] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    values = tuple(record.get(name) for name in _FIELDS)
    return tuple(map(int, values)) if all(value in (0, 1) for value in values) else None


def _share(count, total):
    """count/total with Wilson's 95 % limits, NaN where total is 0.

    Wilson, JASA 22 (1927): the roots of (count/total - x)² = z² x (1 - x) / total. The upper limit
    is one minus the lower limit of the complement, so 0 of n gives exactly 0 and n of n exactly 1.
    """
    total = np.where(np.asarray(total) > 0, total, np.nan)

    def low(count):
        root = _Z * np.sqrt(_Z**2 + 4 * count * (total - count) / total)
        return (2 * count + _Z**2 - root) / (2 * (total + _Z**2))

    return count / total, low(count), 1 - low(total - count)


def _p_star_low(phi, phi_low, psi, psi_high):
    """The lower limit of φ/(φ + ψ) = r/(1 + r), r = φ/ψ.

    MOVER: r's lower limit solves (φ - rψ)² = a² + r²b², a = φ - φ_low, b = ψ_high - ψ, which gives
    r = (φ² - a²)/(φψ + √(φ²b² + ψ²a² - a²b²)), written so that ψ = 0 needs no division by it.
    """
    numerator = phi_low * (2 * phi - phi_low)  # φ² - a², without cancellation
    a, b = phi - phi_low, psi_high - psi
    denominator = phi * psi + np.sqrt((psi * a) ** 2 + b**2 * numerator)
    total = numerator + denominator
    return numerator / np.where(total == 0, 1, total)  # 0 where φ = 0
