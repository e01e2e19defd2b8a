"""Gaussian-mixture self-training: run a spec or a sweep, save it, draw it.

    python -m launch.mixture --config=configs/mixture.py:VARIANT --workdir=DIR

VARIANT: base, quickstart, phase_diagram, phase_diagram_n, regimes, verifier_scaling,
correlated_errors, best_of_k or independence (configs/mixture.py says what each does). DIR gets
results.nc, figures/, metrics.jsonl, checkpoints/ and spec.json. The same command in the same DIR
goes on where it was; with more trajectories, generations or values of an axis it computes what is
new.
"""

import functools
import shlex
import sys
from pathlib import Path

from absl import flags
from rich.console import Console

from synthjax import mixture
from synthjax.io.checkpoint import CheckpointError
from synthjax.io.stop import GracefulStop
from synthjax.io.workdir import WorkdirError
from synthjax.plot import figures, table
from synthjax.protocol import flags as config_flags
from synthjax.protocol.flags import define_config, fail, launch, named, specs

_CONFIG = define_config(mixture.Spec)
flags.adopt_module_key_flags(config_flags)  # so that --help describes --config
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")


def main() -> None:
    """Run every spec of the config, each in its own folder where there are several."""
    if _CONFIG.value is None or _WORKDIR.value is None:
        fail("needs --config=configs/mixture.py:VARIANT and --workdir=DIR (--help says more)")
    say = functools.partial(print, flush=True)
    with GracefulStop() as stop:
        parts = specs(_CONFIG, mixture.Spec)
        for name, spec in parts.items():
            with named(name):
                say(f"{name or 'run'}: {mixture.estimate(spec)}")
        for name, spec in parts.items():
            workdir = Path(_WORKDIR.value) / name
            try:
                if stop.requested:
                    raise mixture.Stopped("nothing of this part is begun")
                results = mixture.run(spec, workdir)
            except mixture.Stopped as stopped:
                again = shlex.join([sys.executable, "-m", "launch.mixture", *sys.argv[1:]])
                say(f"Stopped: {stopped}. To go on:\n  {again}")
                return
            figure = figures.save(results, workdir / "figures")
            Console(width=None if sys.stdout.isatty() else 160).print(table.summary(results))
            say(f"results: {workdir / 'results.nc'}\nfigure:  {figure}")


if __name__ == "__main__":
    launch(main, (WorkdirError, CheckpointError, OSError), mixture.Spec)
