"""Functions compiled for what is here, and their work."""

import jax
import jax.numpy as jnp

from synthjax.plan.work import Work, work


def work_of(function, *shapes) -> Work:
    """Of a function of float32 arrays of these shapes."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return work(jax.jit(function).lower(*arrays).compile().as_text())
