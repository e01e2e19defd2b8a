"""What both transformers compute on one and on eight devices, into a file: a process of its own.

JAX_NUM_CPU_DEVICES=8 PYTHONPATH=.:tests python tests/nn/on_eight_devices.py DIR MESH...
"""

import itertools
import sys
from pathlib import Path

import jax
import numpy as np
from eigen.tiny import tiny as eigen_tiny
from summarize.tiny import tiny as summarize_tiny
from summarize.tiny import written

from synthjax.eigen.task import EigenTask
from synthjax.nn import llama, seq2seq, sharding
from synthjax.protocol.training_set import groups
from synthjax.summarize import sweep
from synthjax.summarize.task import SummarizeTask

MESHES = {
    "data": dict(data=8, fsdp=1, tensor=1),
    "fsdp": dict(data=1, fsdp=8, tensor=1),
    "tensor": dict(data=1, fsdp=1, tensor=8),
    "mixed": dict(data=2, fsdp=-1, tensor=2),
}
STEPS = 20
GREEDY = dict(steps=STEPS, batch=16, width=32, heads=8, k=1, decode_batch=16, n=16)


def eigen(folder: Path, mesh) -> tuple:
    """The eigenvalue task, and what it has learned from."""
    task = EigenTask(eigen_tiny(**GREEDY, generator="beam"), mesh, {})
    return task, seq2seq.loss(task.model, 0), seq2seq.axes


def summarize(folder: Path, mesh) -> tuple:
    """The summarization task, on made-up pairs."""
    file = written(folder / "pairs.jsonl")
    spec = summarize_tiny(file, **GREEDY, kv_heads=8, generator="greedy", verifier="self")
    corpus = sweep.read_corpus(file)
    bases, others = sweep._bases(spec, mesh, corpus)
    task = SummarizeTask(spec, mesh, corpus, sweep._base_of(spec, bases), others)
    return task, llama.loss(sweep.model.build(task.language)), llama.axes


def main(folder: Path, names: list[str]) -> None:
    """Every task on one device and on meshes: first gradient, losses, guesses, a device's share."""
    one = sharding.mesh(devices=jax.devices()[:1])
    found = {}
    for of in (eigen, summarize):
        trained = None
        for name, mesh in {"one": one, **{n: sharding.mesh(MESHES[n]) for n in names}}.items():
            task, loss, axes = of(folder, mesh)
            state = task.begin(0, None)
            leaves = jax.tree.leaves((state.params, state.optimizer))
            here = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
            share = here / sum(leaf.size for leaf in leaves)
            batches = list(task.batches(0, task.pool(0, None, ()), 0))
            first = sharding.put(batches[0], sharding.by_rows(mesh))
            gradient = sharding.on(mesh, jax.jit(jax.value_and_grad(loss.summed)))
            value, gradients = gradient(state.params, first, None)
            some = groups(iter(batches), itertools.repeat(4))
            states, metrics = zip(*task.learn(0, state, some), strict=True)
            if trained is None:
                trained = jax.tree.map(np.asarray, task.params(states[-1]))
            params = sharding.put(trained, sharding.places(mesh, axes, trained))
            found |= {
                f"{of.__name__}/{name}/share": share,
                f"{of.__name__}/{name}/value": np.asarray(value),
                f"{of.__name__}/{name}/gradient": np.concatenate(
                    [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradients)]
                ),
                f"{of.__name__}/{name}/losses": [
                    float(step.loss) for steps in metrics for step in steps
                ],
                f"{of.__name__}/{name}/tokens": task.guess(1, params, 0)["tokens"],
            }
    np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
