"""What specs refuse and accept, and which fields kinds read, shown on the mixture's.

The table of refusals is issue 2's section 5, through Python; tests/launch does the same through
the command line.
"""

import math

import numpy as np
import pytest
from protocol.refused import refused

from synthjax.mixture import Spec
from synthjax.mixture.spec import reads
from synthjax.protocol.spec import SpecError, fields_of


def test_the_ends_of_a_range_belong_to_it():
    Spec(generator="flip", p=0), Spec(generator="flip", p=1)
    Spec(n=1, d=3, generations=1, trajectories=1, seed=0)
    Spec(theta_gen=math.pi), Spec(verifier="linear", error_correlation=-1)
    Spec(features="mixture", signal=10), Spec(covariance="diagonal", covariance_decay=4)
    Spec(verifier="self", keep=1), Spec(regime="mix", real_fraction=0)
    Spec(generator="flip", selection="best_of_k", k=1024, n=2**21 - 1)


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


@pytest.mark.parametrize(
    "name, value", [("theta_gen", (0.3, 0.6)), ("n", [5, 6]), ("verifier", ("none", "oracle"))]
)
def test_several_values_are_a_sweep(name, value):
    assert refused(**{name: value}).rule.endswith(f"several values are sweep={{{name!r}: {value}}}")
    assert "sweep" not in refused(generations=(1, 2)).rule  # which cannot be swept


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
        "; only selection=prune would",
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
        "; only initial=angle would",
        (),
    ),
    "unread angle of flip": (
        {"generator": "flip", "theta_gen": 0.3},
        "theta_gen",
        0.3,
        "; only generator=linear or generator=logistic would",
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
