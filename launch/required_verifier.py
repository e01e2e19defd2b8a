"""How good must my verifier be? The largest angle θ_ver that reaches an accuracy, by n.

    python -m launch.required_verifier --config=configs/mixture.py:base --config.verifier=linear \\
        --targets=0.8,0.9 --workdir=DIR

By state evolution, so nothing is simulated. The spec's own theta_ver does not count.
DIR gets required_verifier.nc and required_verifier.png.
"""

import sys

from absl import flags
from rich.console import Console

from launch.task import define_workdir, usable
from synthjax import mixture
from synthjax.io import results, storage
from synthjax.io.log import Progress
from synthjax.io.processes import exit_code
from synthjax.io.workdir import WorkdirError
from synthjax.mixture import dataset
from synthjax.plot import files, required
from synthjax.protocol.flags import define_config, fail, launch, named, specs

_CONFIG = define_config(mixture.Spec)
_TARGETS = flags.DEFINE_list("targets", ["0.8", "0.9", "0.95"], "Accuracies to be reached.")
_NS = flags.DEFINE_list(
    "ns", [str(round(10 ** (2 + i / 4))) for i in range(17)], "Numbers of examples, 100 to 10⁶."
)
_WORKDIR = define_workdir()


def numbers(flag: flags.FlagHolder, high: int, rule: str, whole: bool = False) -> list:
    """The values of a list flag in order, each in (0, high)."""
    try:
        values = sorted({float(value) for value in flag.value})
    except ValueError:
        values = []
    fine = all(0 < value < high and not (whole and value % 1) for value in values)
    if not values or not fine:
        fail(f"--{flag.name}={','.join(flag.value)}: must be {rule}")
    return [int(value) for value in values] if whole else values


def main() -> None:
    """Print the table, write it and draw it."""
    if _CONFIG.value is None or _WORKDIR.value is None:
        fail("needs --config=configs/mixture.py:VARIANT and --workdir=DIR (--help says more)")
    targets = numbers(_TARGETS, 1, "numbers in (0, 1)")
    ns = numbers(_NS, 2**30, "whole numbers in (0, 2^30)", whole=True)
    chosen = specs(_CONFIG, mixture.Spec)
    if len(chosen) > 1:
        fail(f"this config holds several specs ({', '.join(chosen)}): take one that holds one")
    [(name, spec)] = chosen.items()
    workdir = usable(_WORKDIR)
    print(f"state evolution for {len(ns)} n and {len(targets)} targets", flush=True)
    with named(name), Progress("n", len(ns)) as progress:
        found = dataset.required(spec, targets, ns, progress.advance)
    storage.make(workdir)
    results.write(found, workdir / "required_verifier.nc")
    files.write(required.draw(found), workdir / "required_verifier.png")
    Console(width=None if sys.stdout.isatty() else 160).print(required.table(found))
    print(f"results: {workdir / 'required_verifier.nc'}")
    print(f"figure:  {workdir / 'required_verifier.png'}")


if __name__ == "__main__":
    launch(main, (WorkdirError, OSError), mixture.Spec, exit_code=exit_code)
