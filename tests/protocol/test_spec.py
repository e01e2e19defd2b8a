"""Specs as such, shown on the mixture's: what they hold, how values are normalised and travel."""

import dataclasses
import itertools
import json
from fractions import Fraction

import numpy as np
import pytest

from synthjax.mixture import Spec
from synthjax.protocol.spec import (
    SpecError,
    check_value,
    describe,
    fields_of,
    from_config,
    from_json,
    to_config,
    to_json,
)

SPECS = {
    "defaults": Spec(),
    "plain": Spec(
        features="mixture",
        signal=0.5,
        generator="flip",
        p=0.25,
        verifier="noisy",
        phi=0.9,
        psi=0.0,
        learner="ridge",
        l2=0,
        n=10,
        keep_classifiers=True,
    ),
    "numbers": Spec(generator="flip", sweep={"p": (0.1, 0.5), "l2": (1e-3, 1), "n": (10, 20)}),
    "kinds": Spec(
        sweep={"verifier": ("noisy", "linear"), "psi": (0.0, 0.5), "seed": (7, 2**32 - 1)}
    ),
    "one value": Spec(sweep={"theta_gen": (0.3,)}),
    "mixed": Spec(
        features="mixture",
        covariance="dense",
        covariance_decay=0,
        generator="flip_by_class",
        p_plus=0.1,
        verifier="margin",
        selection="best_of_k",
        regime="mix",
        sweep={"k": (1, 7), "real_fraction": (0.1, 1)},
    ),
    "sizes": Spec(initial="real", regime="subsample", sweep={"n_real": (5, 1000), "d": (3, 4)}),
}


def strict(text):
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_the_fields_of_the_issues():
    names = (
        "n d generations trajectories seed features signal initial theta_gen n_real generator p "
        "verifier phi psi theta_ver error_correlation selection regime learner l2 engine memory_gb "
        "keep_classifiers sweep "
        "covariance covariance_decay p_plus p_minus temperature phi_plus phi_minus psi_plus "
        "psi_minus keep k real_fraction"
    )
    assert set(names.split()) == set(fields_of(Spec))


def test_defaults_obey_their_own_rules():
    spec = Spec()
    for name, field in fields_of(Spec).items():
        if name != "sweep":
            assert check_value(field, name, field.default) == getattr(spec, name) == field.default
            assert field.metadata["doc"]
    assert spec.sweep == {}


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Spec().n = 3


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_json_there_and_back(spec):
    text = to_json(spec)
    assert "\n" not in text
    assert strict(text)["n"] == spec.n
    assert from_json(Spec, text) == spec
    assert to_json(from_json(Spec, text)) == text


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_config_there_and_back(spec):
    assert from_config(Spec, to_config(spec)) == spec


def test_a_config_can_be_overridden():
    config = to_config(Spec())
    config.n = 7
    config.sweep.l2 = (0.5, 0.25)  # a field that nothing swept before has its place
    assert from_config(Spec, config) == Spec(n=7, sweep={"l2": (0.5, 0.25)})
    config.sweep.l2 = None
    assert from_config(Spec, config) == Spec(n=7)


def test_a_config_with_a_field_too_many():
    """As a config file of the user's own may make it: ml_collections locks only what flags set."""
    config = to_config(Spec())
    config.m = 7
    with pytest.raises(SpecError) as caught:
        from_config(Spec, config)
    assert caught.value.path == "m"


def test_axes_come_in_the_order_of_the_fields_whatever_the_order_given():
    axes = {
        "features": ("mixture", "teacher"),
        "learner": ("ridge", "logistic"),
        "n": (5, 4),
        "theta_gen": (0.2, 0.1),
        "l2": (0.2, 0.1),
    }
    written = set()
    for order in itertools.permutations(axes):
        spec = Spec(sweep={name: axes[name] for name in order})
        assert list(spec.sweep) == list(axes)
        assert list(spec.sweep) == [name for name in fields_of(Spec) if name in axes]
        assert spec.sweep == axes  # the values of an axis keep theirs
        written.add(to_json(spec))
    assert len(written) == 1


def test_values_become_plain():
    """Python's own numbers, strings and tuples, whatever kind of number or sequence came in."""
    spec = Spec(
        n=np.int64(5),
        d=np.uint8(3),
        seed=np.uint32(2**32 - 1),
        l2=np.float32(0.5),
        signal=Fraction(1, 2),
        features=np.str_("mixture"),
        sweep={
            "learner": np.array(["ridge", "logistic"]),
            "theta_gen": np.linspace(0, 1, 3),
            "n": range(4, 6),
            "l2": [1, np.float32(0.25)],
        },
    )
    assert (spec.n, spec.d, spec.seed, spec.l2, spec.signal) == (5, 3, 2**32 - 1, 0.5, 0.5)
    assert spec.sweep == {
        "learner": ("ridge", "logistic"),
        "n": (4, 5),
        "theta_gen": (0.0, 0.5, 1.0),
        "l2": (1.0, 0.25),
    }
    for name, field in fields_of(Spec).items():
        if name != "sweep":
            assert type(getattr(spec, name)) is field.type, name
    for name, values in spec.sweep.items():
        assert type(values) is tuple
        assert {type(value) for value in values} == {fields_of(Spec)[name].type}, name
    assert from_json(Spec, to_json(spec)) == spec


def test_what_passes_passes_again():
    """float32(π) is more than π: it may be refused, but not let in and refused by from_json."""
    try:
        spec = Spec(theta_gen=np.float32(np.pi))
    except SpecError as error:
        assert error.path == "theta_gen"
    else:
        assert from_json(Spec, to_json(spec)) == spec


def test_describe_names_every_field():
    lines = describe(Spec).splitlines()
    assert len(lines) == len(fields_of(Spec))
    for line, (name, field) in zip(lines, fields_of(Spec).items(), strict=True):
        assert line.strip().startswith(name)
        assert field.metadata["doc"] in line
        if name != "sweep":
            assert f"{name}={field.default}:" in line
            assert ("cannot be swept" in line) == (not field.metadata["axis"])
