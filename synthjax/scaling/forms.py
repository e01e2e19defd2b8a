"""The forms that a scaling law may have, and the values from which a fit of each begins.

Parameters are held unbounded: sizes and exponents as logarithms, rates and shares as logits.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit

Array = np.ndarray
Columns = Mapping[str, Float[Array, " points"]]
Scales = Mapping[str, float]


class Law(NamedTuple):
    """A form of the error over as many columns as `columns`.

    `value` gives errors from unbounded parameters [..., p], the columns and a scale of each, which
    keeps the size of a term apart from its exponent. `starts` are parameters to begin from, and
    `told` turns parameters into the ones of the formula, called `names`.
    """

    formula: str
    names: tuple[str, ...]
    columns: int
    value: Callable[[Array, Columns, Scales], Float[Array, "*batch points"]]
    starts: Callable[[Array, Columns], Any]
    told: Callable[[Array, Scales], Float[Array, "*batch p"]]


def _parts(free: Array) -> list[Array]:
    return list(np.moveaxis(np.asarray(free), -1, 0)[..., None])


def _scaled(columns: Columns, scales: Scales) -> list[Array]:
    return [columns[name] / scale for name, scale in scales.items()]


def _falling_starts(error: Array) -> Any:
    """Logarithms of an offset, a share of the least error, and of what the first has above it."""
    low = error.min()
    for share in (0.02, 0.5, 0.95):
        yield np.log(share * low), np.log(max(error[0] - share * low, 0.1 * low))


def _size(offset: Array, free: Array, sign: int) -> Array:
    """A's term at the least x: positive, or one that leaves an error > 0."""
    return np.exp(free) if sign > 0 else -offset * expit(free)


def _power(sign: int) -> Law:
    """Falls towards E; or rises, without end (α < 0) or, with A < 0, towards E."""

    def exponent(free):
        return free if sign > 0 else np.exp(free)

    def value(free, columns, scales):
        [x] = _scaled(columns, scales)
        offset, size, power = _parts(free)
        offset = np.exp(offset)
        return offset + _size(offset, size, sign) * x ** -exponent(power)

    def starts(error, columns):
        for power in (0.25, 0.5, 1.0, 2.0):
            if sign < 0:
                yield np.log(error.max()), 0.0, np.log(power)
                continue
            for start in _falling_starts(error):
                yield *start, power
                yield *start, -power

    def told(free, scales):
        [scale] = scales.values()
        offset, size, power = (part[..., 0] for part in _parts(free))
        offset, power = np.exp(offset), exponent(power)
        return np.stack([offset, _size(offset, size, sign) * scale**power, power], -1)

    return Law("E + A x^-alpha", ("E", "A", "alpha"), 1, value, starts, told)


def _geometric(sign: int) -> Law:
    """0 < r < 1; with A < 0 it rises towards E."""

    def value(free, columns, scales):
        [(name, first)] = scales.items()
        offset, size, rate = _parts(free)
        offset = np.exp(offset)
        return offset + _size(offset, size, sign) * expit(rate) ** (columns[name] - first)

    def starts(error, columns):
        for rate in (-2.0, 0.0, 1.5, 3.0):
            if sign < 0:
                yield np.log(error.max()), 0.0, rate
                continue
            for start in _falling_starts(error):
                yield *start, rate

    def told(free, scales):
        [first] = scales.values()
        offset, size, rate = (part[..., 0] for part in _parts(free))
        offset, rate = np.exp(offset), expit(rate)
        return np.stack([offset, _size(offset, size, sign) * rate**-first, rate], -1)

    return Law("E + A r^x", ("E", "A", "r"), 1, value, starts, told)


def _quadrature() -> Law:
    """An angle with two parts at a right angle: one that stays, one that is the draw's noise."""

    def value(free, columns, scales):
        [x] = _scaled(columns, scales)
        offset, size, power = map(np.exp, _parts(free))
        return np.hypot(offset, size * x**-power)

    def starts(error, columns):
        for start in _falling_starts(error):
            for power in (0.25, 0.5, 1.0):
                yield *start, np.log(power)

    def told(free, scales):
        [scale] = scales.values()
        offset, size, power = (np.exp(part[..., 0]) for part in _parts(free))
        return np.stack([offset, size * scale**power, power], -1)

    return Law("√(E² + (A x^-alpha)²)", ("E", "A", "alpha"), 1, value, starts, told)


def _surface(quadratic: bool) -> Law:
    names = ("E", "A", "alpha", "B", "beta", "D", "r")

    def value(free, columns, scales):
        n, t, angle = (columns[name] for name in scales)
        many, first, wide = scales.values()
        offset, a, alpha, b, beta, left, rate = _parts(free)
        terms = (
            np.exp(offset),
            np.exp(a) * (n / many) ** -np.exp(alpha),
            np.exp(b) * (np.maximum(angle, 0) / wide) ** np.exp(beta),
            np.exp(left) * expit(rate) ** (t - first),
        )
        return np.sqrt(sum(x**2 for x in terms)) if quadratic else sum(terms)

    def starts(error, columns):
        low, high = error.min(), error.max()
        size = np.log((high - low) / 3 + 1e-3 * low)
        for alpha, beta, r in itertools.product((0.5, 1.0), (1.0, 2.0), (0.3, 0.7)):
            yield np.log(low / 2), size, np.log(alpha), size, np.log(beta), size, logit(r)

    def told(free, scales):
        many, first, wide = scales.values()
        offset, a, alpha, b, beta, left, rate = (part[..., 0] for part in _parts(free))
        alpha, beta, rate = np.exp(alpha), np.exp(beta), expit(rate)
        sizes = np.exp(a) * many**alpha, np.exp(b) * wide**-beta, np.exp(left) * rate**-first
        return np.stack(
            [np.exp(offset), sizes[0], alpha, sizes[1], beta, sizes[2], rate], -1
        )

    formula = "E + A n^-alpha + B theta^beta + D r^T"
    return Law(formula, names, 3, value, starts, told)


LAWS = {
    "power": (_power(1), _power(-1)),
    "quadrature": (_quadrature(),),
    "geometric": (_geometric(1), _geometric(-1)),
    "surface": (_surface(False),),
    "surface2": (_surface(True),),
}
