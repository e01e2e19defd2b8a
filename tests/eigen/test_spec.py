"""Specs that are refused, and what becomes of a sweep."""

import dataclasses

import numpy as np
import pytest
from eigen.tiny import tiny

from configs import eigen as configs
from synthjax.eigen import Spec
from synthjax.eigen.data import SPECTRA
from synthjax.eigen.spec import reads
from synthjax.eigen.tokens import ENCODINGS
from synthjax.nn import seq2seq
from synthjax.protocol.elements import elements, first_fields, first_of, name_of
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.spec import SpecError, from_config


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(size_min=9), "config.size_min = 9: must be an integer >= 2 and <= 8"),
        (dict(size_min=4, size_max=3), "config.size_min = 4: must be <= size_max, which is 3"),
        (dict(width=100, heads=8), "config.heads = 8: must divide width, which is 100"),
        (dict(accumulate=3), "config.accumulate = 3: must divide batch, which is 128"),
        (dict(encoding="P11"), "choices: P10, P1000, B1999, FP15"),
        (dict(spectrum="flat"), "choices: semicircle"),
        (dict(verifier="oracel"), "choices: none, oracle, noisy, residual"),
        (dict(psi=0.3), "nothing reads it with"),
        (dict(verifier="noisy", phi=0.0, psi=0.0), "keeps nothing"),
        (dict(verifier="noisy", phi=0.0, sweep={"psi": (0.5, 0.0)}), "config.sweep.psi"),
        (dict(verifier="model"), "config.verifier_model = '': must name a folder"),
        (dict(initial="checkpoint"), "config.generator_model = '': must name a folder"),
        (dict(verifier="model", verifier_model=3), "config.verifier_model = 3: must be a text"),
        (dict(selection="random", verifier="oracle"), "config.selection = 'random': asks no"),
        (dict(n=10**8, k=64), "n k must stay below 2^31"),
        (dict(regime="mix", real_fraction=1.0), "config.real_fraction = 1.0: must leave something"),
        (dict(temperature=0.5), "only generator=sample would"),
        (dict(keep=0.2), "nothing reads it"),
        (dict(sweep={"generations": (1, 2)}), "is no field that can be swept"),
        (dict(sweep={"psi": (0.1, 0.5)}), "config.sweep.psi"),
        (dict(initial="checkpoint", generator_model="x", n_real=10), "config.n_real = 10"),
        (dict(b2=1.0), "config.b2 = 1.0: must be a finite number >= 0 and <= 0.999999"),
        (dict(average=1.0), "config.average = 1.0"),
        (dict(learning_rate=float("nan")), "must be a finite number"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(SpecError) as error:
        Spec(**fields)
    assert message in str(error.value)


def test_accumulate_reads_what_the_first_generator_was_trained_on():
    Spec(regime="accumulate", n_real=10)
    with pytest.raises(SpecError, match="n_real"):
        Spec(regime="accumulate", initial="checkpoint", generator_model="x", n_real=10)


def test_best_of_k_keeps_one_for_each_matrix():
    with pytest.raises(SpecError, match="keep"):
        Spec(verifier="self", selection="best_of_k", k=4, keep=0.3)


def test_points_of_a_sweep_that_do_not_differ_are_equal():
    """ψ means nothing to an oracle: of 2 × 3 points four differ."""
    spec = tiny(sweep={"verifier": ("oracle", "noisy"), "psi": (0.0, 0.5, 1.0)})
    found = elements(spec, reads)
    assert [(point.verifier, point.psi) for point in found] == [
        *[("oracle", 0.5)] * 3,
        *[("noisy", psi) for psi in (0.0, 0.5, 1.0)],
    ]
    names = [name_of(point, spec.sweep, reads) for point in found]
    assert names[:4] == [*["verifier=oracle"] * 3, "verifier=noisy,psi=0.0"]
    assert {first_of(point, spec.sweep, reads) for point in found} == {"first"}


def test_which_points_share_the_first_generator():
    spec = tiny(sweep={"width": (8, 16), "seed": (0, 1), "verifier": ("none", "oracle")})
    firsts = [first_of(point, spec.sweep, reads) for point in elements(spec, reads)]
    assert len(set(firsts)) == 4 and firsts[0] == "first,width=8,seed=0"
    later = set(f.name for f in dataclasses.fields(Spec)) - first_fields(Spec)
    assert {"verifier", "n", "generation_steps", "k_test", "regime"} <= later
    assert {"seed", "batch", "learning_rate", "n_real", "steps", "encoding"} <= first_fields(Spec)


def test_a_folder_in_a_name_stays_one_part_of_a_path():
    spec = tiny(verifier="model", sweep={"verifier_model": ("a/../b", "/c")})
    for point in elements(spec, reads):
        assert "/" not in name_of(point, spec.sweep, reads)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("bound", [0.01, 1.0, 10.0, 1e6])
def test_the_exponents_suffice_for_every_spectrum(encoding, bound):
    """2,000 matrices of each, 8 × 8, are written without one that is out of range."""
    for spectrum in SPECTRA:
        spec = Spec(size_max=8, size_min=8, bound=bound, encoding=encoding, spectrum=spectrum)
        found = spec.matrices.draw(key(0, Stream.TEST, 0, 0), np.arange(2000))
        values, valid = spec.numbers.decode(spec.numbers.encode(found.values))
        # FP15 counts in 10⁻⁷, whatever the bound.
        digits = 1e-9 if encoding == "FP15" else 1.001e-6 * bound
        assert valid.all()
        assert (np.abs(values - found.values) <= 0.0051 * np.abs(found.values) + digits).all()


@pytest.mark.parametrize("variant", configs.VARIANTS)
def test_variants(variant):
    """Each is a spec again after flags, and can be put into a small size."""
    spec = from_config(Spec, configs.get_config(variant))
    assert spec == configs.VARIANTS[variant]()
    assert variant in configs.__doc__


def test_no_such_variant():
    with pytest.raises(ValueError, match="choices: demo, paper"):
        configs.get_config("domo")


def test_lawt_is_the_published_model():
    """24.2 million parameters with the positions and symbols used; 28.7 with all: test_seq2seq."""
    architecture = configs.lawt().architecture
    for name, value in seq2seq.LAWT.items():
        assert getattr(architecture, name) == value
    assert seq2seq.build(architecture).size == pytest.approx(24.2e6, rel=0.01)
