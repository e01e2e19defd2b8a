"""Summaries by a language model that is fine-tuned on its own selected ones.

`run(Spec(...))` returns labelled results. `register`, or `Spec` itself, takes a verifier of your
own, a function that satisfies `Verifier`: from `Numbers` and what was `Guessed` to scores. `hf`
reads and writes Hugging Face directories.
"""

import os

# Its notice that there is no PyTorch: nothing here needs one.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from synthjax.summarize import hf
from synthjax.summarize.spec import Spec, register
from synthjax.summarize.sweep import estimate, run
from synthjax.summarize.verify import Guessed, Numbers, Verifier

__all__ = ["Guessed", "Numbers", "Spec", "Verifier", "estimate", "hf", "register", "run"]
