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


def _surface() -> Law:
    """Angles at right angles to each other, in units of π, as they are in `theory`'s limit.

    Under `replace` w_T ∝ sin(c/2ᵀ) g + sin(c(1 − 2⁻ᵀ)) v, whose angle from w* has a part along g's
    mistake, D r^T, and one along v's, B θ^β (1 − r^T). Small angles give r = 1/2, β = 1, B = 1/π
    and D = θ_gen/π (accuracy is 1 − angle/π). The draw's noise, A n^-alpha, points elsewhere;
    alpha = 1/2 where n ≫ d. E is what none of them explains.
    """

    def value(free, columns, scales):
        n, t, angle = (columns[name] for name in scales)
        many, first, wide = scales.values()
        offset, a, alpha, b, beta, left, rate = _parts(free)
        alpha, beta, rate = np.exp(alpha), np.exp(beta), expit(rate)
        noise = np.exp(a) * (n / many) ** -alpha
        verifier = np.exp(b) * (np.maximum(angle, 0) / wide) ** beta * (1 - rate**t)
        generator = np.exp(left) * rate ** (t - first)
        return np.sqrt(np.exp(2 * offset) + noise**2 + verifier**2 + generator**2)

    def starts(error, columns):
        low, high = error.min(), error.max()
        size = np.log((high - low) / 2 + 1e-3 * low)
        for alpha, beta, rate in itertools.product((0.5, 1.0), (1.0, 2.0), (0.3, 0.7)):
            yield np.log(low / 2), size, np.log(alpha), size, np.log(beta), size, logit(rate)

    def told(free, scales):
        many, first, wide = scales.values()
        offset, a, alpha, b, beta, left, rate = (part[..., 0] for part in _parts(free))
        alpha, beta, rate = np.exp(alpha), np.exp(beta), expit(rate)
        a, b = np.exp(a) * many**alpha, np.exp(b) * wide**-beta
        return np.stack([np.exp(offset), a, alpha, b, beta, np.exp(left) * rate**-first, rate], -1)

    names = ("E", "A", "alpha", "B", "beta", "D", "r")
    formula = "√(E² + (A n^-alpha)² + (B theta^beta (1 - r^T))² + (D r^T)²)"
    return Law(formula, names, 3, value, starts, told)


# Of the forms of a law the one is taken that fits better.
LAWS = {
    "power": (_power(1), _power(-1)),
    "geometric": (_geometric(1), _geometric(-1)),
    "surface": (_surface(),),
}
