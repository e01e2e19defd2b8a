"""Summaries: fine-tune a language model on its own selected ones, generation after generation.

    python -m launch.summarize --config=configs/summarize.py:VARIANT --workdir=DIR

VARIANT: demo, verifiers, small, smollm2, llama2_7b or llama2_7b_node (configs/summarize.py says
what each does). DIR gets results.nc, figures/, samples/ (summaries of every generation, JSON
lines), metrics.jsonl, tb/ (TensorBoard), models/ (Hugging Face directories), checkpoints/ and
spec.json.
The same command in the same DIR goes on where it was; with more generations or values of an axis it
computes what is new.
"""

from launch.task import Launcher
from synthjax import summarize
from synthjax.plot import summarize as plot
from synthjax.summarize.pairs import DataError

LAUNCHER = Launcher(summarize, plot.summary, plot.save, (DataError,))

if __name__ == "__main__":
    LAUNCHER.main()
