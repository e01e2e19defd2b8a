"""What a command line makes of a variant."""

from configs import eigen, mixture
from synthjax.eigen import Spec as EigenSpec
from synthjax.mixture import Spec
from synthjax.protocol.flags import _one


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


def test_an_axis_that_is_asked_for_replaces_it_too():
    assert asked(EigenSpec, eigen, "demo", sweep__verifier=("oracle",)).sweep == {
        "verifier": ("oracle",)
    }


def test_an_axis_may_be_added_to_a_command_that_gave_a_value():
    spec = asked(EigenSpec, eigen, "demo", verifier="none", sweep__verifier=("none", "oracle"))
    assert spec.sweep == {"verifier": ("none", "oracle")}
