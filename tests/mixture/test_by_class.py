"""Which class `_plus` and `_minus` belong to: no recorded mean can tell, since exchanging the
classes everywhere changes nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from synthjax import mixture
from synthjax.mixture.data import flip_by_class
from synthjax.mixture.plan import groups
from synthjax.mixture.verify import noisy_by_class

N = 400
KEY = jax.random.key(0)
Y = jnp.where(jnp.arange(N) < 150, 1.0, -1.0)


def numbers(**fields):
    kinds = dict(generator="flip_by_class", verifier="noisy_by_class")
    return groups(mixture.Spec(**kinds, **fields))[0].numbers


def examples():
    x = jax.random.normal(KEY, (N, 3))
    return mixture.Examples(x, x, Y, jnp.zeros(3), jnp.int32(1))


def test_flips():
    guesses = flip_by_class(KEY, numbers(p_plus=1.0, p_minus=0.0), examples())
    assert (guesses == -1).all()
    guesses = flip_by_class(KEY, numbers(p_plus=0.0, p_minus=1.0), examples())
    assert (guesses == 1).all()


def test_verdicts():
    right = np.arange(N) % 2 == 0
    guesses = jnp.where(right, Y, -Y)
    plus = np.asarray(Y) > 0
    rates = dict.fromkeys(("phi_plus", "phi_minus", "psi_plus", "psi_minus"), 0.0)
    for name, chosen in {
        "phi_plus": right & plus,
        "phi_minus": right & ~plus,
        "psi_plus": ~right & plus,
        "psi_minus": ~right & ~plus,
    }.items():
        kept = noisy_by_class(KEY, numbers(**rates | {name: 1.0}), examples(), guesses)
        assert np.array_equal(kept == 1, chosen), name
