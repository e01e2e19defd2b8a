"""Devices to compile for: those that are here, or a TPU slice that is not."""

import importlib.util
import os
import re

import jax
from jax.experimental import topologies

SOME = "v5e:4x4, v5e:16x16, v5p:4x4x4 or v6e:16x16"


class TopologyError(ValueError):
    """No such slice, or nothing here can compile for it: the reason and the way out."""


def devices(topology: str | None) -> list[jax.Device]:
    """The devices of a slice such as v5e:16x16, or, with None, all that are here.

    A slice needs `libtpu`, in an environment of its own: with it every start of JAX would look for
    a TPU. Raises TopologyError.
    """
    if not topology:
        return jax.devices()
    if not re.fullmatch(r"v\d\w*:\d+x\d+(x\d+)?", topology):
        raise TopologyError(f"{topology}: is no slice, such as {SOME}")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # nobody there to be asked
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing to be shared out
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    if not jax.config.jax_platforms:
        jax.config.update("jax_platforms", "cpu")
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # of many classes, by what is missing
        text = " ".join(str(error).split())
        if importlib.util.find_spec("libtpu") is None:
            raise TopologyError(
                f"{topology}: compiling for a TPU needs libtpu, in an environment of its own: "
                "make .venv-tpu/.synthjax-installed, then .venv-tpu/bin/python -m launch.plan"
            ) from None
        raise TopologyError(
            f"{topology}: is no slice that libtpu knows ({text[:200]}), such as {SOME}"
        ) from None
