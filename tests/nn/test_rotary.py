"""Rotary positions against what is published, and complex numbers."""

import math

import jax.numpy as jnp
import numpy as np

from synthjax.nn.rotary import RopeScaling, frequencies, rotated


def test_frequencies_of_llama_3():
    """As published, one by one: short wavelengths, long ones, and those between."""
    factor, low, high, original = 8.0, 1.0, 4.0, 8192
    scaling = RopeScaling(factor, low, high, original)
    expected, kinds = [], set()
    for i in range(64):
        plain = 5e5 ** (-2 * i / 128)
        wavelength = 2 * math.pi / plain
        if wavelength < original / high:
            kinds.add("short")
            expected.append(plain)
        elif wavelength > original / low:
            kinds.add("long")
            expected.append(plain / factor)
        else:
            kinds.add("between")
            smooth = (original / wavelength - low) / (high - low)
            expected.append((1 - smooth) * plain / factor + smooth * plain)
    assert len(kinds) == 3
    np.testing.assert_allclose(frequencies(128, 5e5, scaling), expected, rtol=1e-6)


def test_heads_are_rotated_as_complex_numbers():
    """By their halves: the first is the real part."""
    rng = np.random.default_rng(0)
    x, angles = rng.standard_normal((5, 2, 6)), rng.uniform(0, 9, (5, 3))
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)[:, None]
    both = np.concatenate([angles, angles], -1)
    found = rotated(jnp.asarray(x, jnp.float32), (np.cos(both), np.sin(both)))
    np.testing.assert_allclose(found, np.concatenate([turned.real, turned.imag], -1), atol=1e-6)
