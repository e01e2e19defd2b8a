"""What is counted of a language model's training step is what its shapes say."""

import jax
import jax.numpy as jnp
import pytest

from synthjax.nn import head, llama, train
from synthjax.plan.work import work

A = llama.Architecture(512, 64, 3, heads=4, kv_heads=2, head=16, feed_forward=160, context=256)
ROWS, BLOCK = 8, 128


def counted(remat=False, accumulate=1):
    """FLOP of a step's products."""
    model = llama.build(A, remat=remat)
    schedule = train.Schedule(steps=1, accumulate=accumulate)
    trainer = train.trainer(llama.loss(model), schedule)
    ints = jax.ShapeDtypeStruct((ROWS, BLOCK), jnp.int32)
    batch = llama.Batch(ints, jax.ShapeDtypeStruct((ROWS, BLOCK), jnp.float32))
    state = jax.eval_shape(trainer.begin, model.shapes)
    return work(trainer.step.lower(state, batch, None).compile().as_text()).flops


def expected(remat=False):
    """Six for a parameter and token; attention's two products forward and four backward."""
    own, last = A.vocabulary * A.width, A.layers * A.feed_forward * A.width
    every = sum(leaf.size for leaf in jax.tree.leaves(llama.build(A).shapes) if leaf.ndim == 2)
    inside = every - own + A.layers * 2 * BLOCK * A.heads * A.head
    again = 2 * (inside - last) if remat else 0  # nobody needs what a layer ends with
    return ROWS * (BLOCK * (6 * inside + again) + (BLOCK - 1) * 6 * own)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_a_step_takes_six_for_a_parameter_and_token(remat):
    assert counted(remat) == pytest.approx(expected(remat), rel=0.01)


@pytest.mark.slow
def test_parts_of_a_batch_and_of_logits_count_as_often_as_they_run(monkeypatch):
    """Loops, whose bodies are there once; the head's products are not computed twice."""
    whole = counted()
    assert counted(accumulate=4) == pytest.approx(whole, rel=0.01)
    monkeypatch.setattr(head, "LOGITS", ROWS * BLOCK * A.vocabulary // 4)
    assert counted() == pytest.approx(whole, rel=0.01)
