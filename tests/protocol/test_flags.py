"""What a command line makes of a variant."""

import pytest

from configs import eigen, mixture
from synthjax.eigen import Spec as EigenSpec
from synthjax.mixture import Spec
from synthjax.protocol.flags import _one
from synthjax.protocol.spec import SpecError

PAPER = "paper_small"


def asked(cls, variants, variant, **values):
    """The spec of a variant with these flags."""
    config = variants.get_config(variant)
    for path, value in values.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    return _one(cls, config, "", {path.replace("__", ".") for path in values})


def test_a_flag_replaces_what_the_variant_sweeps():
    spec = asked(EigenSpec, eigen, "demo", verifier="oracle")
    assert spec.verifier == "oracle" and not spec.sweep
    kinds = mixture.get_config("regimes").sweep.to_dict()
    spec = asked(Spec, mixture, "regimes", regime="mix")
    assert spec.regime == "mix"
    left = {name for name, values in kinds.items() if values and name != "regime"}
    assert {*spec.sweep} == left


def test_an_axis_of_a_kind_that_a_flag_replaced_goes_with_it():
    for variants, cls, variant in ((mixture, Spec, "phase_diagram_n"), (eigen, EigenSpec, PAPER)):
        axes = {name for name, values in variants.get_config(variant).sweep.items() if values}
        spec = asked(cls, variants, variant, verifier="oracle")
        assert spec.verifier == "oracle" and {*spec.sweep} < axes
    with pytest.raises(SpecError, match="nothing reads it") as caught:
        asked(EigenSpec, eigen, PAPER, verifier="oracle", sweep__psi=(0.1, 0.2))
    assert caught.value.path == "sweep.psi"


def test_an_axis_that_is_asked_for_replaces_it_too():
    assert asked(EigenSpec, eigen, "demo", sweep__verifier=("oracle",)).sweep == {
        "verifier": ("oracle",)
    }


def test_an_axis_may_be_added_to_a_command_that_gave_a_value():
    spec = asked(EigenSpec, eigen, "demo", verifier="none", sweep__verifier=("none", "oracle"))
    assert spec.sweep == {"verifier": ("none", "oracle")}
