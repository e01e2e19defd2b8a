"""Products and their gradients against what `jax.grad` makes of the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.nn.products import mapped


@pytest.mark.parametrize("out", [(7,), (3,), (2, 3, 4), (1, 2, 2)])
def test_a_map_has_the_gradient_of_the_plain_product(out):
    keys = jax.random.split(jax.random.key(0), 3)
    x, weight = jax.random.normal(keys[0], (6, 5)), jax.random.normal(keys[1], (5, *out))
    by = jax.random.normal(keys[2], (6, *out))
    plain, back = jax.vjp(lambda x, weight: jnp.tensordot(x, weight, 1), x, weight)
    ours, found = jax.vjp(mapped, x, weight)
    np.testing.assert_allclose(ours, plain, rtol=1e-5)
    for one, other in zip(found(by), back(by), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
