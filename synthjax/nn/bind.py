"""Between Flax NNX modules and plain functions of parameters: the only place that splits or merges.

Everything else sees parameters as a pytree of nested dicts, which JAX transforms and optax take as
they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Key

Params = dict[str, Any]


class Model(NamedTuple):
    """A module without its parameters.

    Fields: `init(key)` makes parameters; `apply(params, method, *args)` calls the module's method
    of that name; `shapes` is the parameters' shapes and dtypes.
    """

    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[..., Any]
    shapes: Params

    @property
    def size(self) -> int:
        """How many numbers the parameters are."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes))


def bind(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """The functions of the module that `make` returns, all of whose state is parameters."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def init(key):
        return _named(nnx.to_pure_dict(nnx.split(make(nnx.Rngs(key)))[1]))

    def apply(params, method, *args):
        state = jax.tree.map(lambda leaf: leaf, abstract)
        nnx.replace_by_pure_dict(state, _numbered(params))
        return getattr(nnx.merge(graph, state), method)(*args)

    return Model(init, apply, _named(nnx.to_pure_dict(abstract)))


def _named(params):
    """Every key a string, as checkpoints have them: NNX numbers what is in a list."""
    if not isinstance(params, dict):
        return params
    return {str(name): _named(value) for name, value in params.items()}


def _numbered(params):
    if not isinstance(params, dict):
        return params
    return {
        int(name) if name.isdecimal() else name: _numbered(value) for name, value in params.items()
    }
