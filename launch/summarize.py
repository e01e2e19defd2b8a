"""Summaries: fine-tune a language model on its own selected ones, generation after generation.

    python -m launch.summarize --config=configs/summarize.py:VARIANT --workdir=DIR

VARIANT: demo, small, smollm2 or llama2_7b (configs/summarize.py says what each does). DIR gets
results.nc, figures/, samples/ (summaries of every generation, JSON lines), metrics.jsonl, tb/
(TensorBoard), models/ (Hugging Face directories), checkpoints/ and spec.json. The same command in
the same DIR goes on where it was; with more generations or values of an axis it computes what is
new.
"""

import functools
import shlex
import sys
from pathlib import Path

from absl import flags
from rich.console import Console

from synthjax import summarize
from synthjax.io.checkpoint import CheckpointError
from synthjax.io.stop import GracefulStop, Stopped
from synthjax.io.tensors import ModelError
from synthjax.io.workdir import WorkdirError
from synthjax.plot import summarize as plot
from synthjax.protocol import flags as config_flags
from synthjax.protocol.flags import define_config, fail, launch, named, specs
from synthjax.protocol.loop import OutOfMemory
from synthjax.summarize.pairs import DataError

_CONFIG = define_config(summarize.Spec)
flags.adopt_module_key_flags(config_flags)  # so that --help describes --config
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")


def main() -> None:
    """Run every spec of the config, each in its own folder where there are several."""
    if _CONFIG.value is None or _WORKDIR.value is None:
        fail("needs --config=configs/summarize.py:VARIANT and --workdir=DIR (--help says more)")
    say = functools.partial(print, flush=True)
    with GracefulStop() as stop:
        parts = specs(_CONFIG, summarize.Spec)
        for name, spec in parts.items():
            with named(name):
                say(f"{name or 'run'}: {summarize.estimate(spec)}")
        for name, spec in parts.items():
            workdir = Path(_WORKDIR.value) / name
            try:
                if stop.requested:
                    raise Stopped("nothing of this part is begun")
                results = summarize.run(spec, workdir)
            except Stopped as stopped:
                again = shlex.join([sys.executable, "-m", "launch.summarize", *sys.argv[1:]])
                say(f"Stopped: {stopped}. To go on:\n  {again}")
                return
            Console(width=None if sys.stdout.isatty() else 160).print(plot.summary(results))
            say(f"results: {workdir / 'results.nc'}\nsamples: {workdir / 'samples'}")
            for figure in plot.save(results, workdir / "figures"):
                say(f"figure:  {figure}")


if __name__ == "__main__":
    errors = (WorkdirError, CheckpointError, ModelError, DataError, OutOfMemory, OSError)
    launch(main, errors, summarize.Spec)
