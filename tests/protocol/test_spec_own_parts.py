"""Parts of a user's own in specs: how they are named, registered, read and refused."""

import dataclasses
import functools
from contextlib import ExitStack
from unittest.mock import patch

import pytest
from protocol.refused import refused

from synthjax.mixture import Spec, register
from synthjax.protocol.spec import (
    SpecError,
    describe,
    fields_of,
    from_config,
    from_json,
    to_config,
    to_json,
)

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
