"""Gaussian-mixture self-training: run a spec or a sweep, save it, draw it.

    python -m launch.mixture --config=configs/mixture.py:VARIANT --workdir=DIR

VARIANT: base, quickstart, phase_diagram, phase_diagram_n, million, regimes, verifier_scaling,
correlated_errors, best_of_k or independence (configs/mixture.py says what each does). DIR gets
results.nc, figures/, metrics.jsonl, checkpoints/ and spec.json. The same command in the same DIR
goes on where it was; with more trajectories, generations or values of an axis it computes what is
new.
"""

from launch.task import Launcher
from synthjax import mixture
from synthjax.plot import figures, table

LAUNCHER = Launcher(mixture, table.summary, figures.save)

if __name__ == "__main__":
    LAUNCHER.main()
