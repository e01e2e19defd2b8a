"""What a run would cost on devices that need not be there: memory, work, collectives, time.

    python -m launch.plan --config=configs/summarize.py:llama2_7b --topology=v5e:16x16
    python -m launch.plan --config=configs/eigen.py:paper --topology=v5e:4x4 --search --json=FILE

Compiles the training step and decoding, or the steps of a mixture's sweep, for the first point of
the config's sweep, and reads what XLA made of them. Without --topology for the devices that are
here; for a TPU slice (v5e:4x4, v5e:16x16, v5p:4x4x4, v6e:16x16, ...) no TPU is needed, but libtpu:
`make plan ARGS='--config=... --topology=...'` makes an environment for it. A config file of your
own says with --task what it is a config of. The exit code is 1 where a program does not fit.
docs/plan.md says what the numbers are worth.
"""

import json
import sys

from absl import flags
from rich.console import Console

from launch.task import TASKS, asked_task
from synthjax import eigen, mixture, summarize
from synthjax.io import storage
from synthjax.io.tensors import ModelError
from synthjax.plan import report
from synthjax.plan.topology import TopologyError
from synthjax.protocol.flags import define_config, define_path, fail, launch, named, specs

_SPEC = {"mixture": mixture, "eigen": eigen, "summarize": summarize}[asked_task()].Spec
_CONFIG = define_config(_SPEC)
_TASK = flags.DEFINE_enum("task", None, TASKS, "By default the name of the config's file.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "A TPU slice; by default what is here.")
_SEARCH = flags.DEFINE_boolean(
    "search", False, "Try every mesh that batch and model fit, and rank those that memory fits."
)
_JSON = define_path("json", "File for all numbers, a list with one entry a program.")


def main() -> None:
    """Compile, print, write."""
    if _CONFIG.value is None:
        fail("needs --config=configs/NAME.py:VARIANT (--help says more)")
    if _SEARCH.value and _SPEC is mixture.Spec:
        fail("--search: has no meaning for a mixture, whose trajectories devices share evenly")
    parts = specs(_CONFIG, _SPEC)
    found = []
    for name, spec in parts.items():
        with named(name):
            found += report.planned(spec, _TOPOLOGY.value, _SEARCH.value, Console())
    if _JSON.value:
        storage.write(storage.place(_JSON.value), json.dumps(found, indent=1) + "\n")
        print(f"numbers: {_JSON.value}")
    if not _SEARCH.value and not all(one["fits"] for one in found):
        sys.exit(1)


if __name__ == "__main__":
    launch(main, (TopologyError, ModelError, OSError), _SPEC)
