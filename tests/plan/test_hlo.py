"""The text of HLO as computations and instructions."""

import pytest

from synthjax.plan import hlo

TEXT = """HloModule m

%inner (a: f32[8,16], b: bf16[4]) -> (bf16[4], f32[8,16]) {
  %a = f32[8,16]{1,0:T(8,128)S(1)} parameter(0)
  %b = bf16[4]{0} parameter(1)
  ROOT %both = (bf16[4]{0}, /*index=1*/f32[8,16]{1,0:T(8,128)S(1)}) tuple(%b, %a)
}

ENTRY %main (x: f32[8,16], y: bf16[4]) -> (bf16[4], f32[8,16]) {
  %x = f32[8,16]{1,0} parameter(0)
  %y = bf16[4]{0} parameter(1)
  ROOT %f = (bf16[4]{0}, f32[8,16]{1,0:S(1)}) fusion(%x, %y), kind=kLoop, calls=%inner
}
"""


def test_computations_and_instructions():
    module, entry = hlo.parse(TEXT)
    main, inner = module[entry], module["inner"]
    assert entry == "main" and [*main] == ["x", "y", "f"]
    fusion = hlo.root(main)
    assert (fusion.name, fusion.opcode, fusion.operands) == ("f", "fusion", ("x", "y"))
    assert fusion.called("calls") == "inner" and fusion.called("body") is None
    assert hlo.parameter(inner, 1).name == "b"
    assert hlo.root(inner).operands == ("b", "a")


def test_arrays_and_their_bytes():
    module, entry = hlo.parse(TEXT)
    small, near = hlo.Array("bf16", (4,)), hlo.Array("f32", (8, 16), near=True)
    fusion = hlo.root(module[entry])
    assert fusion.arrays == (small, near)
    assert (fusion.held, fusion.nbytes) == (8 + 512, 8)  # what is near is no traffic
    assert hlo.operands(module["inner"], hlo.root(module["inner"])) == [small, near]


@pytest.mark.parametrize("text", ["HloModule nothing", TEXT.replace("(%x, %y)", "(%x, (%y)")])
def test_what_is_no_hlo_is_refused(text):
    with pytest.raises(ValueError, match="no HLO"):
        hlo.parse(text)
