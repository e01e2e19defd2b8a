"""Specs as such, shown on the mixture's: what is accepted, normalised, refused, and how it travels.

The table of refusals is issue 2's section 5, through Python; tests/launch does the same through
the command line.
"""

import dataclasses
import functools
import itertools
import json
import math
from contextlib import ExitStack
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest

from synthjax.mixture import Spec, register
from synthjax.mixture.spec import reads
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


def refused(**values):
    with pytest.raises(SpecError) as caught:
        Spec(**values)
    return caught.value


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


def test_the_ends_of_a_range_belong_to_it():
    Spec(generator="flip", p=0), Spec(generator="flip", p=1)
    Spec(n=1, d=3, generations=1, trajectories=1, seed=0)
    Spec(theta_gen=math.pi), Spec(verifier="linear", error_correlation=-1)
    Spec(features="mixture", signal=10), Spec(covariance="diagonal", covariance_decay=4)
    Spec(verifier="self", keep=1), Spec(regime="mix", real_fraction=0)
    Spec(generator="flip", selection="best_of_k", k=1024, n=2**21 - 1)


def test_what_passes_passes_again():
    """float32(π) is more than π: it may be refused, but not let in and refused by from_json."""
    try:
        spec = Spec(theta_gen=np.float32(np.pi))
    except SpecError as error:
        assert error.path == "theta_gen"
    else:
        assert from_json(Spec, to_json(spec)) == spec


@pytest.mark.parametrize("name", ["n", "d", "generations", "trajectories", "seed", "n_real", "k"])
@pytest.mark.parametrize(
    "value",
    [True, False, 5.0, np.float64(5), "5", None, (5,), -1, math.nan, math.inf, 10**400],
    ids=lambda value: repr(value)[:20],
)
def test_no_integer(name, value):
    error = refused(**{name: value})
    assert (error.path, error.value) == (name, value) or value != value
    assert error.rule.startswith("must be an integer >= ")


@pytest.mark.parametrize(
    "name",
    [
        *("signal", "theta_gen", "p", "phi", "psi", "theta_ver", "l2", "memory_gb"),
        *("covariance_decay", "p_plus", "psi_minus", "temperature", "keep", "real_fraction"),
    ],
)
@pytest.mark.parametrize(
    "value",
    [True, "0.5", None, 1j, (0.5,), math.nan, -math.nan, math.inf, -math.inf, np.nan, -1e-9],
    ids=repr,
)
def test_no_number(name, value):
    error = refused(**{name: value})
    assert error.path == name
    assert error.rule.startswith("must be a finite number >")


@pytest.mark.parametrize("value", [1, 0, "True", None])
def test_no_truth_value(value):
    assert refused(keep_classifiers=value).rule == "must be True or False"


NOISY = {"generator": "flip", "verifier": "noisy"}
BY_CLASS = {
    "verifier": "noisy_by_class",
    **dict.fromkeys(("phi_plus", "phi_minus", "psi_plus", "psi_minus"), 0),
}

# what is asked for, where the error lies, the value it names, words of the rule, choices
REFUSED = {
    "wrong type": ({"n": "many"}, "n", "many", "must be an integer >= 1", ()),
    "float for an integer": ({"n": 10.5}, "n", 10.5, "must be an integer >= 1", ()),
    "p < 0": (NOISY | {"p": -0.1}, "p", -0.1, "must be a finite number >= 0 and <= 1", ()),
    "p > 1": (NOISY | {"p": 1.1}, "p", 1.1, "must be a finite number >= 0 and <= 1", ()),
    "p > 1, swept": (
        NOISY | {"sweep": {"p": (0.1, 1.1)}},
        "sweep.p",
        1.1,
        "must be a finite number >= 0 and <= 1",
        (),
    ),
    "phi = psi = 0": (NOISY | {"phi": 0, "psi": 0}, "psi", 0.0, "keeps nothing", ()),
    "phi = psi = 0, psi swept": (
        NOISY | {"phi": 0, "sweep": {"psi": (0.5, 0)}},
        "sweep.psi",
        (0.5, 0.0),
        "keeps nothing",
        (),
    ),
    "phi = psi = 0, phi swept": (
        NOISY | {"psi": 0, "sweep": {"phi": (0.5, 0)}},
        "sweep.phi",
        (0.5, 0.0),
        "keeps nothing",
        (),
    ),
    "phi = psi = 0, a point of two axes": (
        NOISY | {"sweep": {"phi": (0, 1), "psi": (0, 1)}},
        "sweep.psi",
        (0.0, 1.0),
        "keeps nothing",
        (),
    ),
    "phi = psi = 0, for one of the verifiers": (
        {"phi": 0, "psi": 0, "sweep": {"verifier": ("none", "noisy")}},
        "psi",
        0.0,
        "keeps nothing",
        (),
    ),
    "all rates 0 of noisy_by_class": (BY_CLASS, "psi_minus", 0.0, "keeps nothing", ()),
    "all rates 0 of noisy_by_class, phi_minus swept": (
        BY_CLASS | {"sweep": {"phi_minus": (0.5, 0)}},
        "sweep.phi_minus",
        (0.5, 0.0),
        "phi_plus = phi_minus = psi_plus = psi_minus = 0 keeps nothing",
        (),
    ),
    "phi = psi = 0, for one of the selections": (
        NOISY | {"phi": 0, "psi": 0, "sweep": {"selection": ("best_of_k", "prune")}},
        "psi",
        0.0,
        "keeps nothing",
        (),
    ),
    "n < 1": ({"n": 0}, "n", 0, "must be an integer >= 1", ()),
    "n < 1, swept": ({"sweep": {"n": (10, 0)}}, "sweep.n", 0, "must be an integer >= 1", ()),
    "d < 3": ({"d": 2}, "d", 2, "must be an integer >= 3", ()),
    "T < 1": ({"generations": 0}, "generations", 0, "must be an integer >= 1", ()),
    "empty axis": ({"sweep": {"n": ()}}, "sweep.n", (), "at least one value", ()),
    "axis that is no field": (
        {"sweep": {"m": (1, 2)}},
        "sweep.m",
        (1, 2),
        "is no field that can be swept",
        ("n", "p", "verifier"),
    ),
    "axis that cannot be swept": (
        {"sweep": {"generations": (1, 2)}},
        "sweep.generations",
        (1, 2),
        "is no field that can be swept",
        ("n", "p", "verifier"),
    ),
    "sweep of sweep": (
        {"sweep": {"sweep": (1, 2)}},
        "sweep.sweep",
        (1, 2),
        "is no field that can be swept",
        ("n", "p", "verifier"),
    ),
    "no axis but a number": ({"sweep": {"n": 5}}, "sweep.n", 5, "must be a tuple of values", ()),
    "no axis but a string": (
        {"sweep": {"verifier": "none"}},
        "sweep.verifier",
        "none",
        "must be a tuple of values",
        (),
    ),
    "no sweep": ({"sweep": ("n",)}, "sweep", ("n",), "must map a field's name to a tuple", ()),
    "duplicate values": ({"sweep": {"n": (5, 6, 5)}}, "sweep.n", (5, 6, 5), "must differ", ()),
    "duplicate once plain": (
        {"sweep": {"l2": (1, np.float32(1))}},
        "sweep.l2",
        (1.0, 1.0),
        "must differ",
        (),
    ),
    "unread": ({"p": 0.2}, "p", 0.2, "only generator=flip would", ()),
    "unread, swept": ({"sweep": {"p": (0.2, 0.3)}}, "sweep.p", (0.2, 0.3), "generator=flip", ()),
    "unread verifier's field": (
        {"verifier": "oracle", "psi": 0.2},
        "psi",
        0.2,
        "nothing reads it with",
        (),
    ),
    "unread signal": ({"signal": 2.0}, "signal", 2.0, "only features=mixture would", ()),
    "unread initial": (
        {"generator": "flip", "initial": "real"},
        "initial",
        "real",
        "only generator=linear or generator=logistic would",
        (),
    ),
    "unread n_real": ({"n_real": 10}, "n_real", 10, "only initial=real would", ()),
    "unread angle": (
        {"initial": "real", "theta_gen": 0.1},
        "theta_gen",
        0.1,
        "only initial=angle would",
        (),
    ),
    "unknown kind": (
        {"verifier": "orcale"},
        "verifier",
        "orcale",
        "must be a known kind",
        ("none", "oracle", "noisy", "linear"),
    ),
    "unknown kind, swept": (
        {"sweep": {"learner": ("ridge", "svm")}},
        "sweep.learner",
        "svm",
        "must be a known kind",
        ("ridge", "logistic"),
    ),
    "a kind that is no string": ({"engine": 1}, "engine", 1, "must be a known kind", ("direct",)),
    "l2 = 0, logistic": ({"l2": 0}, "l2", 0.0, "must be > 0 with learner=logistic", ()),
    "l2 = 0, swept": (
        {"sweep": {"l2": (0.1, 0)}},
        "sweep.l2",
        (0.1, 0.0),
        "must be > 0 with learner=logistic",
        (),
    ),
    "l2 = 0, learner swept": (
        {"l2": 0, "sweep": {"learner": ("ridge", "logistic")}},
        "l2",
        0.0,
        "must be > 0 with learner=logistic",
        (),
    ),
    "best of k alike": (
        {"selection": "best_of_k"},
        "selection",
        "best_of_k",
        "means nothing with generator=linear",
        (),
    ),
    "best of k alike, swept": (
        {"sweep": {"generator": ("flip", "linear"), "selection": ("prune", "best_of_k")}},
        "sweep.selection",
        ("prune", "best_of_k"),
        "means nothing with generator=linear",
        (),
    ),
    "self without a classifier": (
        {"generator": "flip", "verifier": "self"},
        "verifier",
        "self",
        "means nothing with generator=flip",
        (),
    ),
    "self without a classifier, by class": (
        {"generator": "flip_by_class", "sweep": {"verifier": ("none", "self")}},
        "sweep.verifier",
        ("none", "self"),
        "means nothing with generator=flip_by_class",
        (),
    ),
    "too many guesses": (
        {"generator": "flip", "selection": "best_of_k", "n": 2**21, "k": 1024},
        "k",
        1024,
        "n k must stay below 2^31",
        (),
    ),
    "keep = 0": (
        {"verifier": "margin", "keep": 0},
        "keep",
        0,
        "must be a finite number > 0 and <= 1",
        (),
    ),
    "k < 1": ({"k": 0}, "k", 0, "must be an integer >= 1 and <= 1024", ()),
    "unread keep": ({"verifier": "noisy", "keep": 0.1}, "keep", 0.1, "verifier=margin", ()),
    "unread keep of best_of_k": (
        {"generator": "flip", "verifier": "margin", "selection": "best_of_k", "keep": 0.1},
        "keep",
        0.1,
        "nothing reads it with",
        (),
    ),
    "unread k": ({"k": 2}, "k", 2, "only selection=best_of_k would", ()),
    "unread decay": (
        {"covariance_decay": 2},
        "covariance_decay",
        2.0,
        "only covariance=diagonal or covariance=dense would",
        (),
    ),
    "unread temperature": (
        {"temperature": 0.5},
        "temperature",
        0.5,
        "only generator=logistic would",
        (),
    ),
    "unread fraction": (
        {"sweep": {"real_fraction": (0.1, 0.2)}},
        "sweep.real_fraction",
        (0.1, 0.2),
        "only regime=mix would",
        (),
    ),
    "unread p of flip_by_class": (
        {"generator": "flip_by_class", "p": 0.1},
        "p",
        0.1,
        "only generator=flip would",
        (),
    ),
    "unread p_plus of flip": (
        {"generator": "flip", "p_plus": 0.1},
        "p_plus",
        0.1,
        "only generator=flip_by_class would",
        (),
    ),
    "unread psi of noisy_by_class": (
        {"verifier": "noisy_by_class", "psi": 0.1},
        "psi",
        0.1,
        "only verifier=noisy would",
        (),
    ),
    "unread correlation": (
        {"verifier": "linear", "initial": "real", "error_correlation": 0.5},
        "error_correlation",
        0.5,
        "nothing reads it with",
        (),
    ),
    "unread theta_ver": (
        {"verifier": "self", "theta_ver": 0.5001},
        "theta_ver",
        0.5001,
        "only verifier=linear or verifier=margin would",
        (),
    ),
    "classifiers of many sizes": (
        {"keep_classifiers": True, "sweep": {"d": (3, 4)}},
        "keep_classifiers",
        True,
        "classifiers of different d do not fit one array",
        (),
    ),
}


@pytest.mark.parametrize("values,path,value,rule,choices", REFUSED.values(), ids=REFUSED)
def test_refused(values, path, value, rule, choices):
    error = refused(**values)
    assert (error.path, error.value) == (path, value)
    assert rule in error.rule
    assert set(choices) <= set(error.choices)
    text = str(error)
    assert text.startswith(f"config.{path} = {value!r}: {error.rule}")
    assert "\n" not in text
    assert ("choices: " in text) == bool(choices)
    assert all(choice in text for choice in choices)


@pytest.mark.parametrize(
    "axis", [np.array(3), np.array(0.5), 3, object()], ids=lambda value: type(value).__name__
)
def test_no_axis_is_a_spec_error_whatever_it_is(axis):
    assert refused(sweep={"theta_gen": axis}).path == "sweep.theta_gen"


@pytest.mark.parametrize(
    "values",
    [
        NOISY | {"phi": 0, "psi": 0.1},
        NOISY | {"selection": "best_of_k", "phi": 0, "psi": 0},
        BY_CLASS | {"generator": "logistic", "selection": "best_of_k"},
        BY_CLASS | {"phi_minus": 1e-3},
        {"verifier": "self", "generator": "logistic", "selection": "best_of_k"},
        {"learner": "ridge", "l2": 0},
        {"verifier": "linear", "initial": "real", "theta_ver": 0.1},
        # enough that one combination of kinds reads it
        {"sweep": {"verifier": ("none", "noisy")}, "psi": 0.2},
        {"sweep": {"generator": ("flip", "linear"), "p": (0.1, 0.2), "theta_gen": (0.1, 0.2)}},
    ],
)
def test_accepted(values):
    Spec(**values)


# Which numbers enter a trajectory, worked out by hand from the definitions.
READ = [
    ({}, {"theta_gen"}),
    ({"generator": "flip"}, {"p"}),
    ({"initial": "real"}, {"n_real"}),
    ({"generator": "flip", "initial": "real"}, {"p"}),
    ({"features": "mixture"}, {"theta_gen", "signal"}),
    ({"verifier": "oracle"}, {"theta_gen"}),
    ({"verifier": "noisy"}, {"theta_gen", "phi", "psi"}),
    ({"verifier": "linear"}, {"theta_gen", "theta_ver", "error_correlation"}),
    ({"verifier": "linear", "initial": "real"}, {"n_real", "theta_ver"}),
    ({"verifier": "linear", "generator": "flip"}, {"p", "theta_ver"}),
    ({"learner": "ridge"}, {"theta_gen"}),
    ({"covariance": "diagonal"}, {"theta_gen", "covariance_decay"}),
    ({"covariance": "dense"}, {"theta_gen", "covariance_decay"}),
    ({"generator": "logistic"}, {"theta_gen", "temperature"}),
    ({"generator": "logistic", "initial": "real"}, {"n_real", "temperature"}),
    ({"generator": "flip_by_class"}, {"p_plus", "p_minus"}),
    (
        {"verifier": "noisy_by_class"},
        {"theta_gen", "phi_plus", "phi_minus", "psi_plus", "psi_minus"},
    ),
    ({"verifier": "margin"}, {"theta_gen", "theta_ver", "error_correlation", "keep"}),
    ({"verifier": "margin", "initial": "real"}, {"n_real", "theta_ver", "keep"}),
    ({"verifier": "self"}, {"theta_gen", "keep"}),
    (
        {"verifier": "margin", "selection": "best_of_k", "generator": "flip"},
        {"p", "theta_ver", "k"},
    ),
    ({"selection": "best_of_k", "generator": "logistic"}, {"theta_gen", "temperature", "k"}),
    ({"regime": "accumulate"}, {"theta_gen"}),
    ({"regime": "subsample"}, {"theta_gen"}),
    ({"regime": "mix"}, {"theta_gen", "real_fraction"}),
]


@pytest.mark.parametrize("kinds,numbers", READ, ids=range(len(READ)))
def test_what_is_read(kinds, numbers):
    names = {name: f.metadata["kinds"] for name, f in fields_of(Spec).items() if name != "sweep"}
    chosen = {name: fields_of(Spec)[name].default for name in names if names[name]} | kinds
    always = {"n", "d", "generations", "trajectories", "seed", "l2", "memory_gb"}
    read = reads(chosen) - set(chosen) - {"keep_classifiers", "sweep"}
    assert read == numbers | always


def test_a_field_set_to_its_default_counts_as_set():
    spec = Spec()
    spec.check_explicit(["n", "theta_gen", "sweep.n"])
    with pytest.raises(SpecError) as caught:
        spec.check_explicit(["n", "p"])
    assert caught.value.path == "p"


def test_describe_names_every_field():
    lines = describe(Spec).splitlines()
    assert len(lines) == len(fields_of(Spec))
    for line, (name, field) in zip(lines, fields_of(Spec).items(), strict=True):
        assert line.strip().startswith(name)
        assert field.metadata["doc"] in line
        if name != "sweep":
            assert f"{name}={field.default}:" in line
            assert ("cannot be swept" in line) == (not field.metadata["axis"])


FAMILIES = ("generator", "verifier", "learner")


@pytest.fixture
def registries():
    """The kinds that one may add to, as they were before, afterwards."""
    with ExitStack() as stack:
        yield {
            family: stack.enter_context(patch.dict(fields_of(Spec)[family].metadata["kinds"]))
            for family in FAMILIES
        }


def own(key, numbers, examples, guesses):
    """What it does.

    And more of it.
    """


@dataclasses.dataclass(frozen=True)
class Vote:
    members: int = 3
    reads = ("theta_ver",)

    def __call__(self, key, numbers, examples, guesses):
        """Part of the user's own."""


@dataclasses.dataclass
class Loose:
    def __call__(self):
        """Cannot be hashed: its fields may change."""


@pytest.mark.parametrize("family", FAMILIES)
def test_register(family, registries):
    assert register(family, own) == "own"
    kind = registries[family]["own"]
    assert (kind.call, kind.reads, kind.doc, kind.own) == (own, (), "What it does.", True)
    assert register(family, Vote(5)) == "Vote(members=5)"
    assert registries[family]["Vote(members=5)"].reads == ("theta_ver",)
    assert register(family, Vote(7), name="seven", reads=["n_real", "p"]) == "seven"
    assert registries[family]["seven"].reads == ("n_real", "p")
    assert register(family, lambda: None, name="unnamed") == "unnamed"
    assert Spec(**{family: "Vote(members=5)"}) == Spec(**{family: Vote(5)})
    for name in ("own", "Vote(members=5)", "seven", "unnamed"):
        assert getattr(Spec(**{family: name}), family) == name
        assert name in describe(Spec) and name in refused(**{family: "another"}).choices


def test_a_name_given_again_is_that_of_the_newer_part(registries):
    register("verifier", own)
    spec = Spec(verifier="own")

    def newer():
        pass

    assert register("verifier", newer, name="own", reads=["keep"]) == "own"
    assert registries["verifier"]["own"].call is newer
    assert Spec(verifier="own") == spec
    Spec(verifier="own", keep=0.3)


def test_a_spec_registers_what_it_is_given(registries):
    spec = Spec(generator=own, sweep={"verifier": (own, "none", Vote()), "theta_ver": (0.1, 0.2)})
    assert spec.generator == "own"
    assert spec.sweep["verifier"] == ("own", "none", "Vote(members=3)")
    assert registries["verifier"]["Vote(members=3)"].call == Vote(3)
    assert from_json(Spec, to_json(spec)) == from_config(Spec, to_config(spec)) == spec
    error = refused(sweep={"verifier": (Vote(3), Vote())})
    assert error.path == "sweep.verifier" and "must differ" in error.rule
    assert refused(verifier=own, theta_ver=0.1).path == "theta_ver"  # which `own` does not read
    assert refused(features=own).rule == "must be a known kind"


def test_what_own_parts_read_counts(registries):
    """A generator that reads "initial" is placed, and reads what that kind of initial reads."""
    register("generator", own, name="placed", reads=["initial", "temperature"])
    Spec(generator="placed", temperature=0.1, theta_gen=0.1)
    Spec(generator="placed", temperature=0.1, initial="real", n_real=3, verifier="self", keep=0.2)
    register("generator", own, name="free")
    assert refused(generator="free", theta_gen=0.1).path == "theta_gen"
    assert refused(generator="free", verifier="self").path == "verifier"


def test_a_spec_of_parts_that_are_not_registered_here():
    """As one that was written by another process."""
    text = to_json(Spec()).replace('"verifier": "none"', '"verifier": "Vote(members=3)"')
    with pytest.raises(SpecError) as caught:
        from_json(Spec, text)
    error = caught.value
    assert (error.path, error.value) == ("verifier", "Vote(members=3)")
    assert "register it first" in error.rule and "oracle" in error.choices


def ridge():
    pass


LAMBDA, BOUND = (lambda: None), functools.partial(own)

# family, part, more arguments, the value named, words of the rule, choices
UNFIT = {
    "no family": (("features", own), {}, own, "takes no part of one's own", FAMILIES),
    "unknown family": (("filter", own), {}, own, "takes no part of one's own", FAMILIES),
    "built in": (("verifier", own), {"name": "oracle"}, "oracle", "take another name", ()),
    "built in by name": (("learner", ridge), {}, "ridge", "take another name", ()),
    "no name": (("verifier", LAMBDA), {}, LAMBDA, "has no name", ()),
    "no name of its own": (("verifier", BOUND), {}, BOUND, "has no name", ()),
    "not hashable": (("verifier", Loose()), {}, Loose(), "make its dataclass frozen", ()),
    "a class": (("verifier", Vote), {}, Vote, "an object that can be called", ()),
    "a word": (("verifier", "none"), {}, "none", "an object that can be called", ()),
    "reads no field": (
        ("verifier", own),
        {"reads": ["theta"]},
        "own",
        "reads 'theta', which is no field",
        ("theta_ver", "n"),
    ),
}


@pytest.mark.parametrize("given, more, value, rule, choices", UNFIT.values(), ids=UNFIT)
def test_unfit(given, more, value, rule, choices, registries):
    before = {family: dict(kinds) for family, kinds in registries.items()}
    with pytest.raises(SpecError) as caught:
        register(*given, **more)
    error = caught.value
    assert (error.path, error.value) == (given[0], value)
    assert rule in error.rule
    assert set(choices) <= set(error.choices)
    assert str(error).startswith(f"config.{error.path} = {value!r}: {error.rule}")
    assert registries == before
