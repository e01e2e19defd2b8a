"""State evolution: its derivatives and edges, what it is for, and the engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evolved import BASE, evolved, jitted, numbers

from synthjax import mixture
from synthjax.mixture import evolution, theory
from synthjax.mixture.data import Numbers
from synthjax.mixture.spec import Spec
from synthjax.protocol.spec import SpecError

pytestmark = pytest.mark.evolution


@pytest.mark.slow
@pytest.mark.parametrize(
    "verifier, learner",
    [("linear", "logistic"), pytest.param("margin", "ridge", marks=pytest.mark.long)],
)
def test_derivatives_are_those_of_the_fixed_point(verifier, learner):
    """Of accuracy in λ, the verifier's angle and n, against central differences in float64."""
    with jax.enable_x64(True):
        kinds = BASE | {"verifier": verifier, "learner": learner}
        own = numbers()._asdict()

        def accuracy(l2, theta_ver, n):
            given = own | {"l2": l2, "theta_ver": theta_ver, "n": n}
            return evolution.evolution(generations=2, d=50.0, **kinds, **given).accuracy[-1]

        at = (0.02, 0.5, 500.0)
        last = jax.jit(accuracy)
        found = jax.jit(jax.grad(accuracy, (0, 1, 2)))(*at)
        for i, step in enumerate((1e-5, 1e-4, 0.1)):
            up, down = list(at), list(at)
            up[i] += step
            down[i] -= step
            expected = (last(*up) - last(*down)) / (2 * step)
            assert float(found[i]) == pytest.approx(float(expected), rel=1e-4, abs=1e-9)


def test_nothing_kept_and_coinciding_directions():
    """A verifier that is the truth, a generator that is it too, and one that is its opposite."""
    fine = evolved(2, theta_gen=0.0, theta_ver=0.0, error_correlation=0.0)
    assert np.isfinite(fine.accuracy).all() and (fine.accuracy > 0.9).all()
    gone = evolved(2, theta_gen=np.pi, theta_ver=0.0, error_correlation=0.0)
    assert np.isnan(gone.accuracy[1:]).all()
    assert not gone.converged[1:].any()


@pytest.mark.slow
def test_the_best_of_k_are_one_in_k_of_the_guesses():
    """Counts are of all k n guesses, as in the other engines: n of them are kept."""
    spec = dict(n=200, d=20, k=4, selection="best_of_k", generator="logistic", verifier="linear")
    found = mixture.run(Spec(engine="state_evolution", generations=1, learner="ridge", **spec))
    np.testing.assert_allclose(found.kept[..., 1], 1 / 4, atol=2e-3)
    right = found.phi_hat * (1 - found.p_hat) / found.kept
    assert (right[..., 1] > 1 - found.p_hat[..., 1]).all()


def test_no_noise_at_three_features():
    found = evolved(1, d=3, n=50)
    population = evolved(1, d=3, n=1e9)
    # One direction of the plane's complement is left: accuracy differs by its noise alone.
    assert abs(float(found.accuracy[1] - population.accuracy[1])) < 0.1


@pytest.mark.slow
class TestRequiredVerifier:
    SPEC = Spec(verifier="linear", learner="ridge", n=2000, d=100, generations=2)

    def accuracy(self, angle):
        kinds = {family: getattr(self.SPEC, family) for family in evolution.KNOWN}
        own = {name: getattr(self.SPEC, name) for name in Numbers._fields}
        own |= {"theta_ver": float(angle), "d": self.SPEC.d}
        return float(jitted(2, **kinds)(**own).accuracy[-1])

    def test_reaches_the_target_and_no_more(self):
        angle = theory.required_verifier(0.85, self.SPEC)
        assert 0 < float(angle) < np.pi / 2
        assert self.accuracy(angle) == pytest.approx(0.85, abs=1e-4)

    def test_out_of_reach_and_always_in_it(self):
        assert np.isnan(theory.required_verifier(0.9999, self.SPEC))
        assert float(theory.required_verifier(0.3, self.SPEC)) == pytest.approx(np.pi / 2)

    def test_more_examples_allow_a_worse_verifier(self):
        found = jax.vmap(lambda n: theory.required_verifier(0.85, self.SPEC, n=n))(
            jnp.array([1000.0, 4000.0, 16_000.0])
        )
        assert (np.diff(found) > 0).all()

    def test_its_derivative(self):
        """−1 over the slope of accuracy, by differences of the angle itself."""
        slope = jax.grad(lambda target: theory.required_verifier(target, self.SPEC))(0.85)
        angles = [float(theory.required_verifier(t, self.SPEC)) for t in (0.845, 0.855)]
        assert float(slope) == pytest.approx((angles[1] - angles[0]) / 0.01, rel=0.02)

    @pytest.mark.parametrize("changes", [dict(verifier="oracle"), dict(regime="accumulate")])
    def test_refused(self, changes):
        base = dict(verifier="linear", learner="ridge")
        with pytest.raises(ValueError, match=next(iter(changes.values()))):
            theory.required_verifier(0.8, Spec(**base | changes))

    def test_no_sweep_is_ignored(self):
        spec = Spec(verifier="linear", sweep={"l2": (0.1, 0.2)})
        with pytest.raises(SpecError, match=r"config.sweep = .* must be empty"):
            theory.required_verifier(0.9, spec, n=1000)

    @pytest.mark.parametrize("target", [1.9, -0.1, np.nan])
    def test_a_target_is_an_accuracy(self, target):
        with pytest.raises(ValueError, match=rf"target = {target}: .* in \[0, 1\]"):
            theory.required_verifier(target, self.SPEC)


@pytest.mark.slow
def test_evolution_beside_other_engines_and_where_there_is_none():
    spec = dict(n=200, d=20, learner="ridge", generations=2, trajectories=2)
    found = mixture.run(Spec(**spec, sweep={"regime": ("replace", "accumulate")}))
    alone = mixture.run(Spec(**spec, engine="state_evolution")).accuracy.isel(trajectory=0)
    np.testing.assert_allclose(found.evolution_accuracy.sel(regime="replace"), alone, atol=1e-6)
    assert np.isnan(found.evolution_accuracy.sel(regime="accumulate")).all()
    assert found.evolution_accuracy.attrs["missing"] == "no state evolution for regime=accumulate"


@pytest.mark.slow
def test_the_engine_is_the_same_without_randomness(tmp_path):
    """All trajectories are one, seeds do not matter, and a run goes on."""
    spec = dict(
        engine="state_evolution", n=200, d=20, verifier="margin", learner="ridge", trajectories=3
    )
    at_once = mixture.run(Spec(**spec, generations=3, seed=1))
    mixture.run(Spec(**spec, generations=1), tmp_path)
    longer = mixture.run(Spec(**spec, generations=3), tmp_path)
    assert not np.ptp(at_once.accuracy.values, axis=0).any()
    np.testing.assert_allclose(longer.accuracy, at_once.accuracy, atol=1e-6)
    np.testing.assert_allclose(longer.accuracy[0], longer.evolution_accuracy, atol=1e-6)
    np.testing.assert_allclose(longer.kept[:, 1:], 0.5, atol=0.01)
    assert not (longer.status > 0).any()


def test_engine_refuses_what_it_does_not_know():
    for changes, which in (
        (dict(regime="accumulate"), "regime='accumulate'"),
        (dict(covariance="dense"), "covariance='dense'"),
    ):
        with pytest.raises(SpecError, match=which):
            Spec(engine="state_evolution", **changes)
