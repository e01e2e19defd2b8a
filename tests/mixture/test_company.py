"""A trajectory is the same alone, in a batch, among others, in chunks and within any memory.

Rounding as in test_contract. And programs are compiled for shapes and kinds alone.
"""

import dataclasses
import itertools
from functools import cache

import jax
import numpy as np
import pytest
from own_parts import centroid, own_parts
from sampled import assert_same

from synthjax import mixture
from synthjax.mixture import plan
from synthjax.mixture.spec import Spec
from synthjax.mixture.sweep import run_tiles
from synthjax.mixture.trajectory import trajectory

pytestmark = [pytest.mark.optimized, pytest.mark.usefixtures("no_theory", "with_own_parts")]

N = 64

# Random numbers of every kind, and grid points that share features.
WHOLE = dict(
    n=N,
    d=5,
    generations=2,
    trajectories=6,
    seed=3,
    features="mixture",
    generator="flip",
    verifier="noisy",
    phi=0.8,
    learner="ridge",
    keep_classifiers=True,
    sweep={"psi": (0.1, 0.5, 0.9)},
)


@cache
def whole():
    return mixture.run(Spec(**WHOLE))


def assert_same_results(found, wanted):
    for name in ("classifier", "accuracy", "test_accuracy", "overlap", "norm", "p_hat", "kept"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-5, atol=2e-5, err_msg=name)
    np.testing.assert_array_equal(found.status, wanted.status)


@pytest.mark.slow
def test_new_values_and_seeds_compile_nothing():
    before, size = mixture.run(Spec(**WHOLE)), run_tiles._cache_size()
    changed = {"seed": 2**32 - 1, "signal": 2.0, "p": 0.1, "phi": 0.7, "l2": 1.0, "n": N - 10}
    after = mixture.run(Spec(**(WHOLE | changed | {"sweep": {"psi": (0.0, 0.3, 1.0)}})))
    assert run_tiles._cache_size() == size
    assert abs(after.accuracy.values - before.accuracy.values).min() > 0
    mixture.run(Spec(**(WHOLE | {"n": N + 1})))
    assert run_tiles._cache_size() == size + 1  # the count does count


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes, programs",
    [
        (tuple(range(65, 129, 7)), 1),
        pytest.param(
            (70, 80, 90, 128, 130, 150, 200, 256, 257, 300, 400, 500), 3, marks=pytest.mark.long
        ),
    ],
)
def test_a_program_for_each_octave_of_a_swept_n(sizes, programs):
    plain = {name: value for name, value in WHOLE.items() if name != "sweep"}
    size = run_tiles._cache_size()
    mixture.run(Spec(**(plain | {"generations": 1, "learner": centroid, "sweep": {"n": sizes}})))
    assert run_tiles._cache_size() == size + programs


@pytest.mark.long
def test_sizes_are_the_same_alone_and_on_an_axis():
    """With others in the same arrays, which are longer then, and with others in their own."""
    spec = WHOLE | {"generator": "logistic", "initial": "real", "sweep": {}}
    spec |= {"regime": "subsample", "selection": "best_of_k"}
    sizes = {"n": (130, 250, 20), "n_real": (140, 250), "k": (9, 16)}
    first = {name: values[0] for name, values in sizes.items()}
    alone = mixture.run(Spec(**(spec | first)))
    found = mixture.run(Spec(**(spec | {"sweep": sizes})))
    assert_same_results(found.sel(first), alone)
    for name in sizes:
        assert found.accuracy.diff(name)[..., -1].values.any()


@pytest.mark.slow
def test_a_part_given_again_is_compiled_again():
    """Of the same name, once a function and once a dataclass: never the program of the old one."""

    def functions(sign):
        def picky(key, numbers, examples, guesses):
            return (guesses == sign * examples.y).astype(guesses.dtype)

        return picky

    def instances(sign):
        @dataclasses.dataclass(frozen=True)
        class Picky:
            def __call__(self, *given):
                return functions(sign)(*given)

            def __repr__(self):
                return "Picky()"

        return Picky()

    spec = {name: value for name, value in WHOLE.items() if name not in ("sweep", "phi")}
    spec |= {"generations": 1, "learner": centroid}
    for made in (functions, instances):
        with own_parts():
            for sign in (1, -1):  # keep what is right, and what is wrong
                part = made(sign)
                accuracy = mixture.run(Spec(**(spec | {"verifier": part}))).accuracy
                assert (np.sign(accuracy[:, 1] - 0.5) == sign).all()


@pytest.mark.slow
def test_alone():
    """Every trajectory of a run, computed by itself."""
    spec = Spec(**WHOLE)
    group = plan.groups(spec)[0]
    alone = jax.jit(trajectory, static_argnums=0)
    for (k, psi), i in itertools.product(enumerate(spec.sweep["psi"]), range(spec.trajectories)):
        numbers = group.numbers._replace(psi=np.float32(psi))
        record = alone(group.static, numbers, None, np.uint32(spec.seed), np.int32(i))
        found = whole().isel(psi=k, trajectory=i)
        for name in ("classifier", "accuracy", "test_accuracy", "overlap", "norm", "status"):
            assert_same(np.asarray(getattr(record, name)), found[name].values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, shared",
    [
        ({"trajectories": 2}, {"trajectory": [0, 1]}),
        ({"generations": 1}, {"generation": [0, 1]}),
        ({"sweep": {"psi": (0.9, 0.2, 0.1)}}, {"psi": [0.1, 0.9]}),
        # Then the grid points have features of their own: signal changes them.
        ({"sweep": {"psi": (0.5,), "signal": (1.0, 2.0)}}, {"psi": [0.5]}),
    ],
    ids=["trajectories", "generations", "psi", "signal"],
)
def test_what_else_is_run_changes_nothing(change, shared):
    found = mixture.run(Spec(**(WHOLE | change)))
    if "signal" in found.dims:
        found = found.sel(signal=1.0)
    assert_same_results(found.sel(shared), whole().sel(shared))


@pytest.mark.slow
def test_chunks_change_nothing(monkeypatch):
    spec, wanted = Spec(**WHOLE), whole()
    monkeypatch.setattr(plan, "chunk_work", lambda *_: 1)
    assert len(list(plan.chunks(plan.groups(spec), 1))) == spec.trajectories
    assert_same_results(mixture.run(spec), wanted)


@pytest.mark.slow
def test_memory_changes_nothing():
    """A budget for one trajectory at one grid point at a time, which leaves devices idle."""
    devices, groups = jax.local_devices(), plan.groups(Spec(**WHOLE))
    one = plan.bytes_of(groups[0].static, groups[0].swept, 1)
    small = Spec(**(WHOLE | {"memory_gb": 1.01 * one / 2**30}))
    chunks = [*plan.chunks(groups, 10**9)]
    tight, roomy = (
        plan.layout(spec, groups, chunks, devices[0].platform, len(devices)).tiles[0]
        for spec in (small, Spec(**WHOLE))
    )
    assert (tight.points, tight.trajectories, tight.devices) == (1, 1, 1)
    assert roomy.points * roomy.trajectories > 1
    assert_same_results(mixture.run(small), whole())
