"""Specs that are none."""

import pytest

from synthjax.mixture import Spec
from synthjax.protocol.spec import SpecError


def refused(**values) -> SpecError:
    """Why a spec of the mixture with these values is refused."""
    with pytest.raises(SpecError) as caught:
        Spec(**values)
    return caught.value
