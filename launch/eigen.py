"""Eigenvalues: train a transformer on its own verified guesses, generation after generation.

    python -m launch.eigen --config=configs/eigen.py:VARIANT --workdir=DIR

VARIANT: demo, paper, paper_small, warmup, warmup_small, generations or lawt (configs/eigen.py says
what each does). DIR gets results.nc, figures/, metrics.jsonl, tb/ (TensorBoard), models/
(safetensors), checkpoints/ and spec.json. The same command in the same DIR goes on where it was;
with more generations or values of an axis it computes what is new.
"""

from launch.task import Launcher
from synthjax import eigen
from synthjax.plot import eigen as plot

LAUNCHER = Launcher(eigen, plot.summary, plot.save)

if __name__ == "__main__":
    LAUNCHER.main()
