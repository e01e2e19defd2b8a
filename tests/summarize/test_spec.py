"""Specs that are refused before anything is done, how they travel, and what a sweep shares."""

import json
import math
import re
from unittest import mock

import pytest
from summarize.tiny import tiny

from configs import summarize as configs
from synthjax.nn.lora import Lora
from synthjax.protocol.elements import elements, first_fields, first_of, name_of
from synthjax.protocol.spec import (
    SpecError,
    UnreadError,
    fields_of,
    from_config,
    from_json,
    to_config,
    to_json,
)
from synthjax.summarize import Spec, register
from synthjax.summarize.spec import reads

PRETRAINED = dict(initial="pretrained", model="m")
BEST = dict(generator="sample", k=4, selection="best_of_k")


def refused(**fields):
    with pytest.raises(SpecError) as error:
        Spec(**fields)
    return error.value


@pytest.mark.parametrize(
    "fields, message",
    [
        # Kinds
        (dict(initial="nothing"), "config.initial = 'nothing': must be a known kind; choices: "),
        (dict(initial="nothing"), "; choices: scratch, pretrained"),
        (dict(precision="float16"), "; choices: float32, bfloat16"),
        (dict(learns="all"), "; choices: full, lora"),
        (dict(start="end"), "; choices: base, generator"),
        (dict(generator="best"), "; choices: greedy, beam, sample"),
        (dict(verifier="oracel"), "config.verifier = 'oracel': must be a known kind (your own: "),
        (dict(verifier="oracel"), "; choices: random, oracle, self, model, lead, length"),
        (dict(verifier="oracle", verifier_metric="rouge"), "; choices: rouge1, rouge2, rougeL"),
        (dict(selection="prune"), "; choices: top, best_of_k, threshold"),
        (dict(regime="all"), "; choices: replace, accumulate, subsample, mix"),
        # Types
        (dict(data=3), "config.data = 3: must be a text"),
        (dict(pack=1), "config.pack = 1: must be True or False"),
        (dict(n=2.5), "config.n = 2.5: must be an integer >= 1 and <= 1000000000"),
        (dict(clip=math.nan), "config.clip = nan: must be a finite number > 0 and <= "),
        (dict(sweep=[1]), "config.sweep = [1]: must map a field's name"),
        # Axes
        (dict(sweep={"generations": (1, 2)}), "config.sweep.generations = (1, 2): is no field"),
        (dict(sweep={"data": ("a", "b")}), "is no field that can be swept; choices: block, "),
        (dict(sweep={"seed": ()}), "config.sweep.seed = (): an axis needs at least one value"),
        (dict(sweep={"seed": (1, 1)}), "the values of an axis must differ"),
        (dict(sweep={"rate": (0.5, 2)}), "config.sweep.rate = 2: must be a finite number > 0"),
        (dict(sweep={"rate": 0.5}), "config.sweep.rate = 0.5: must be a tuple of values"),
        # Combinations
        (dict(heads=3), "config.heads = 3: must divide width, which is 128"),
        (dict(heads=128), "config.heads = 128: must leave heads of an even width; width is 128"),
        (dict(kv_heads=3), "config.kv_heads = 3: must divide heads, which is 4"),
        (dict(sweep={"width": (96, 100), "heads": (4, 8)}), "config.sweep.heads = (4, 8): must"),
        (dict(initial="pretrained"), "config.model = '': must be a Hugging Face directory where "),
        (dict(verifier="model"), "config.verifier_model = '': must be a directory where verifier="),
        (dict(sweep={"verifier": ("self", "model")}), "config.verifier_model = '': must be a"),
        (dict(learns="lora"), "config.learns = 'lora': must be full where initial=scratch: "),
        (
            dict(PRETRAINED, sweep={"initial": ("scratch", "pretrained")}, learns="lora"),
            "config.learns = 'lora': must be full",
        ),
        (
            dict(PRETRAINED, learns="lora", start="generator"),
            "config.start = 'generator': must be base where learns=lora: adapters begin from",
        ),
        (
            dict(PRETRAINED, learns="lora", sweep={"start": ("base", "generator")}),
            "config.sweep.start = ('base', 'generator'): must be base where learns=lora",
        ),
        (
            dict(summary_tokens=129),
            "config.summary_tokens = 129: must leave half of a block to the article; block is 256",
        ),
        (dict(sweep={"block": (64, 256)}), "config.summary_tokens = 48: must leave half of a"),
        (dict(accumulate=3), "config.accumulate = 3: must divide batch, which is 16"),
        (
            dict(selection="best_of_k"),
            "config.selection = 'best_of_k': has one guess to choose from where generator=greedy",
        ),
        (
            dict(BEST, sweep={"generator": ("sample", "greedy")}),
            "config.selection = 'best_of_k': has one guess",
        ),
        (
            dict(regime="mix", real_fraction=1.0),
            "config.real_fraction = 1.0: must leave something to guess; n is 1000",
        ),
        (dict(regime="mix", n=1, real_fraction=0.75), "config.real_fraction = 0.75: must leave"),
        (
            dict(BEST | dict(k=1000), n=10**8),
            "config.k = 1000: n k must stay below 2^31; n is 100000000",
        ),
    ],
)
def test_refused(fields, message):
    assert message in str(refused(**fields))


RANGES = {name: field for name, field in fields_of(Spec).items() if field.type in (int, float)}


@pytest.mark.parametrize("name", RANGES)
def test_every_number_has_its_range(name):
    """Refused just outside it, and the message tells the ends; of every field that is a number."""
    meta = RANGES[name].metadata
    step = 1 if RANGES[name].type is int else 1e-6 * max(1, abs(meta["high"]))
    outside = [meta["low"] if meta["low_open"] else meta["low"] - step]
    outside += [meta["high"] + step] if math.isfinite(meta["high"]) else []
    for value in outside:
        error = refused(**{name: value})
        assert (error.path, error.value) == (name, value)
        assert re.match(r"must be (an integer|a finite number) >=? ", error.rule)
        assert all(f"{end:.10g}" in error.rule for end in (meta["low"], meta["high"]) if end < 1e99)
        if meta["axis"]:
            assert refused(sweep={name: (value,)}).path == f"sweep.{name}"


# What would read each of these, and some spec that does not.
UNREAD = {
    "model": (dict(model="m"), "initial=pretrained"),
    "vocabulary": (dict(PRETRAINED, vocabulary=500), "initial=scratch"),
    "width": (dict(PRETRAINED, width=256), "initial=scratch"),
    "layers": (dict(PRETRAINED, layers=2), "initial=scratch"),
    "heads": (dict(PRETRAINED, heads=2), "initial=scratch"),
    "kv_heads": (dict(PRETRAINED, kv_heads=1), "initial=scratch"),
    "feed_forward": (dict(PRETRAINED, feed_forward=16), "initial=scratch"),
    "rank": (dict(PRETRAINED, rank=4), "learns=lora"),
    "alpha": (dict(PRETRAINED, alpha=4.0), "learns=lora"),
    "k": (dict(k=2), "generator=beam or generator=sample or selection=best_of_k"),
    "temperature": (dict(generator="beam", temperature=0.5), "generator=sample"),
    "top_p": (dict(generator="beam", top_p=0.5), "generator=sample"),
    "verifier_metric": (
        dict(verifier="self", verifier_metric="rouge2"),
        "verifier=oracle or verifier=lead",
    ),
    "verifier_model": (dict(verifier="oracle", verifier_model="m"), "verifier=model"),
    "rate": (dict(BEST, rate=0.5), "selection=top"),
    "threshold": (dict(threshold=0.5), "selection=threshold"),
    "real_fraction": (dict(real_fraction=0.25), "regime=mix"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_nothing_reads(name):
    """Set off its default, swept, or set to its default by a flag: each is a misunderstanding."""
    fields, readers = UNREAD[name]
    error = refused(**fields)
    assert isinstance(error, UnreadError) and (error.path, error.value) == (name, fields[name])
    assert error.rule.startswith("nothing reads it with initial=")
    assert error.rule.endswith(f"only {readers} would")
    rest = {other: value for other, value in fields.items() if other != name}
    assert refused(**rest, sweep={name: (fields[name],)}).path == f"sweep.{name}"
    with pytest.raises(UnreadError, match=rf"^config\.{name} = "):
        Spec(**rest).check_explicit([name])


def test_every_field_that_some_kind_reads_is_tried_above():
    kinds = [kind for field in fields_of(Spec).values() for kind in _kinds(field)]
    assert set(UNREAD) == {name for kind in kinds if not kind.own for name in kind.reads}


def _kinds(field):
    return (field.metadata.get("kinds") or {}).values()


SPECS = {
    "defaults": Spec(),
    "adapters": Spec(**PRETRAINED, learns="lora", rank=4, alpha=8.0, remat=True, pack=True),
    "sampling": Spec(**BEST, temperature=0.7, top_p=0.9, start="generator", regime="accumulate"),
    "mix": Spec(regime="mix", n=4, sweep={"real_fraction": (0.25, 0.5)}),
    "kinds": Spec(
        verifier_model="o",
        threshold=0.3,
        sweep={
            "selection": ("threshold", "top"),
            "verifier": ("model", "oracle"),
            "rate": (0.125, 0.5),
        },
    ),
    "numbers": Spec(block=16, summary_tokens=8, sweep={"seed": (0, 2**32 - 1), "end": (0, 1)}),
}


@pytest.mark.parametrize("name", SPECS)
def test_there_and_back(name):
    """JSON of one line and the config that flags change; neither adds or loses anything."""
    spec = SPECS[name]
    text = to_json(spec)
    assert "\n" not in text and json.loads(text)["n"] == spec.n
    assert from_json(Spec, text) == spec == from_config(Spec, to_config(spec))
    assert to_json(from_json(Spec, text)) == text
    assert list(spec.sweep) == [field for field in fields_of(Spec) if field in spec.sweep]


@pytest.mark.parametrize("variant", configs.VARIANTS)
def test_variants(variant):
    spec = from_config(Spec, configs.get_config(variant))
    assert spec == configs.VARIANTS[variant]() and f"\n- {variant}: " in configs.__doc__


def test_no_such_variant():
    with pytest.raises(ValueError, match="choices: demo, "):
        configs.get_config("domo")


def test_what_a_spec_says_of_the_model_and_its_training():
    spec = tiny("x", steps=7, learning_rate=0.1, end=0.5, generation_end=1.0, clip=2.0)
    made = spec.architecture(271)
    assert (made.vocabulary, made.width, made.heads, made.head) == (271, 16, 2, 8)
    assert (made.kv_heads, made.layers, made.context) == (1, 1, 64)
    first, second, third = map(spec.schedule, range(3))
    assert second == third and (second.steps, second.learning_rate, second.end) == (6, 1e-3, 1)
    assert (first.steps, first.learning_rate, first.end, first.clip) == (7, 0.1, 0.5, 2.0)
    assert spec.lora is None and SPECS["adapters"].lora == Lora(4, 8.0)


def test_points_of_a_sweep_that_do_not_differ_are_equal():
    """A rate means nothing where the best of k are kept: of 2 × 3 points four differ."""
    spec = tiny("x", sweep={"selection": ("best_of_k", "top"), "rate": (0.1, 0.2, 0.5)})
    points = elements(spec, reads)
    assert [(point.selection, point.rate) for point in points] == [
        *[("best_of_k", 0.125)] * 3,
        *[("top", rate) for rate in (0.1, 0.2, 0.5)],
    ]
    names = {name_of(point, spec.sweep, reads) for point in points}
    assert names == {"selection=best_of_k", *(f"selection=top,rate={r}" for r in (0.1, 0.2, 0.5))}


def test_which_points_share_the_first_generator():
    """All that differ in what comes after it alone."""
    spec = tiny("x", sweep={"width": (8, 16), "seed": (0, 1), "verifier": ("random", "self")})
    firsts = [first_of(point, spec.sweep, reads) for point in elements(spec, reads)]
    assert len(set(firsts)) == 4 and firsts[:2] == ["first,width=8,seed=0"] * 2
    later = set(fields_of(Spec)) - first_fields(Spec)
    assert {"start", "n", "generation_steps", "generator", "verifier", "rate", "right"} <= later
    assert {"data", "block", "model", "n_real", "steps", "learns", "seed"} <= first_fields(Spec)


def shortest(key, numbers, guesses):
    """The shorter the better."""
    return -guesses.words


def test_a_verifier_of_ones_own():
    """Registered under its name; it may ask for fields, which others then read only through it."""
    with mock.patch.dict(fields_of(Spec)["verifier"].metadata["kinds"]):
        assert Spec(verifier=shortest).verifier == "shortest" == register(shortest)
        with pytest.raises(UnreadError):
            Spec(verifier=shortest, verifier_metric="rouge2")
        asking = register(shortest, "asking", reads=["verifier_metric"])
        assert Spec(verifier=asking, verifier_metric="rouge2").verifier_metric == "rouge2"
        with pytest.raises(SpecError, match="reads 'tau', which is no field; choices: data, "):
            register(shortest, "other", reads=["tau"])
        with pytest.raises(SpecError, match="is synthjax's own"):
            register(shortest, "oracle")
    assert "choices: random" in str(refused(verifier="shortest"))
