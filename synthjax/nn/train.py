"""Training: jitted steps on a mesh, in mixed precision, which never wait for the device.

Parameters, gradients and optimizer state are float32; what the model computes in is its own
`dtype`. A step whose gradient's norm is not finite changes nothing and is counted.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from synthjax.nn.bind import Params
from synthjax.protocol.training_set import Group

B1 = 0.9  # of Adam


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a model is trained.

    Fields: `steps` in all; `learning_rate` after `warmup` steps of linear growth, from where it
    falls as a cosine to the fraction `end` of it (1: stays); `weight_decay` of AdamW (0: Adam), on
    matrices alone; `clip` of the gradient's global norm; `b2` of Adam; `accumulate`: parts of a
    batch that are computed one after another; `average`: what an exponential moving average of the
    parameters keeps of itself in a step, 0 for none.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    b2: float = 0.98
    accumulate: int = 1
    average: float = 0.0
    end: float = 0.1


class State(NamedTuple):
    """What training goes on from; a pytree of arrays.

    Fields: `step`, how many batches were seen; `skipped`, how many of them changed nothing;
    `average` of the parameters, or None.
    """

    params: Params
    optimizer: optax.OptState
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    average: Params | None


class Loss(NamedTuple):
    """What is made small, of parameters that learn and `fixed` ones that do not.

    Fields: `summed(params, batch, fixed)`, over all tokens of a batch, in nats; `tokens(batch)`,
    how many there are. A batch is a pytree of arrays with a leading axis of rows.
    """

    summed: Callable[[Params, Any, Params | None], Float[Array, ""]]
    tokens: Callable[[Any], Array]


class Metrics(NamedTuple):
    """Of one step: mean loss of a target token in nats, the gradient's norm before clipping, how
    many tokens there were, the learning rate, and how many steps were skipped so far.
    """

    loss: Float[Array, ""]
    gradient: Float[Array, ""]
    tokens: Int[Array, ""]
    learning_rate: Float[Array, ""]
    skipped: Int[Array, ""]


class Trainer(NamedTuple):
    """`begin(params)` makes a State; `step(state, batch, fixed)` the next and the step's Metrics.

    `several(state, batches, count, fixed)` takes the first `count` of batches which its arrays have
    along a further, leading axis, one step after another, and gives the Metrics along such an axis.
    Given the length of that axis, what it computes does not depend, to the bit, on how steps are
    shared out among its calls.

    Both are jitted and donate the state. Batches and state stay on the devices that they are on:
    with a batch sharded by rows over a mesh, the gradient is that of the whole batch.
    """

    begin: Callable[[Params], State]
    step: Callable[..., tuple[State, Metrics]]
    several: Callable[..., tuple[State, Metrics]]


def rate(schedule: Schedule) -> optax.Schedule:
    """The learning rate by the number of steps done."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=schedule.learning_rate,
        warmup_steps=schedule.warmup,
        decay_steps=max(schedule.steps, schedule.warmup + 1),
        end_value=schedule.learning_rate * schedule.end,
    )


def trainer(loss: Loss, schedule: Schedule) -> Trainer:
    """Make a loss small."""
    learning_rate = rate(schedule)

    def adamw(b1=B1, b2=schedule.b2):
        return optax.adamw(
            learning_rate,
            b1,
            b2,
            weight_decay=schedule.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        )

    def begin(params):
        params = jax.tree.map(jnp.copy, params)  # a step donates what it is given
        average = jax.tree.map(jnp.copy, params) if schedule.average else None
        step, skipped = jnp.zeros((2,), jnp.int32)
        return State(params, adamw().init(params), step, skipped, average)

    def gradient(params, batch, fixed):
        value = jax.value_and_grad(loss.summed)
        if schedule.accumulate == 1:
            return value(params, batch, fixed)
        # Every part takes rows from all over the batch, which may be sharded by rows.
        parts = jax.tree.map(
            lambda rows: rows.reshape(-1, schedule.accumulate, *rows.shape[1:]).swapaxes(0, 1),
            batch,
        )
        zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)

        def add(found, part):
            return jax.tree.map(jnp.add, found, value(params, part, fixed)), None

        return jax.lax.scan(add, zero, parts)[0]

    def step(state: State, batch, fixed: Params | None = None):
        tokens = loss.tokens(batch)
        total, gradients = gradient(state.params, batch, fixed)
        share = 1 / jnp.maximum(tokens, 1)
        norm = share * optax.tree.norm(gradients)
        finite = jnp.isfinite(norm)

        def learned(new, old):
            return jnp.where(finite, new, old)

        # Mean and clip are one factor, which Adam's own pass over the parameters applies; moments
        # that keep all of themselves and gain 0 stay as they are, and their updates, divided by 0,
        # are not taken. Optax's clip and `apply_if_finite` are further passes, and a `cond` copies
        # every array on a GPU.
        scale = share * jnp.minimum(1, schedule.clip / norm)
        scaled = jax.tree.map(lambda leaf: learned(leaf * scale, 0), gradients)
        keep = learned(B1, 1), learned(schedule.b2, 1)
        updates, moments = adamw(*keep).update(scaled, state.optimizer, state.params)
        optimizer = jax.tree.map(  # counts of steps are numbers
            lambda new, old: new if new.ndim else learned(new, old), moments, state.optimizer
        )
        params = jax.tree.map(lambda old, update: learned(old + update, old), state.params, updates)
        average = state.average
        if schedule.average:
            average = optax.incremental_update(params, average, learned(1 - schedule.average, 0))
        rate_now = learning_rate(state.step - state.skipped)
        skipped = state.skipped + ~finite
        metrics = Metrics(total * share, norm, tokens, rate_now, skipped)
        return State(params, optimizer, state.step + 1, skipped, average), metrics

    def several(state: State, batches, count, fixed: Params | None = None):
        room = len(jax.tree.leaves(batches)[0])

        def at(i):
            return jax.tree.map(lambda leaf: leaf[i], batches)

        if room == 1:
            state, metrics = step(state, at(0), fixed)
            return state, jax.tree.map(lambda leaf: leaf[None], metrics)

        def one(i, found):
            state, metrics = found
            state, of_step = step(state, at(i), fixed)
            return state, jax.tree.map(lambda all, leaf: all.at[i].set(leaf), metrics, of_step)

        shapes = jax.eval_shape(step, state, at(0), fixed)[1]
        metrics = jax.tree.map(lambda leaf: jnp.zeros((room, *leaf.shape), leaf.dtype), shapes)
        # A loop whose length is not known when it is compiled is one program for every length.
        return jax.lax.fori_loop(0, count, one, (state, metrics))

    return Trainer(begin, *(jax.jit(call, donate_argnums=0) for call in (step, several)))


def steps(
    trainer: Trainer, state: State, groups: Iterable[Group], fixed: Params | None = None
) -> Iterator[tuple[State, list[Metrics]]]:
    """After each group the state, and the metrics of the group before, which is done by then.

    Once more at the end, with the last group's metrics. Two groups at most are under way: the
    device never waits for the host, and a CPU of several devices, where many steps ahead can leave
    no thread for one that others wait for, does not get stuck (seen with JAX 0.10).
    """

    def each(metrics, count):
        rows = zip(*(leaf[:count] for leaf in jax.device_get(metrics)), strict=True)
        return [Metrics(*row) for row in rows]

    under_way = None
    for group in groups:
        state, metrics = trainer.several(state, group.batches, np.int32(group.count), fixed)
        yield state, each(*under_way) if under_way else []
        under_way = metrics, group.count
    yield state, each(*under_way) if under_way else []
