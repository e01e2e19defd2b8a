"""How many pairs a second the verifier scores: its worker processes against one plain loop.

    python -m benchmarks.rouge

Real news articles: each one's summary against its first sentence, ROUGE-1, -2 and -L with stems,
all of them ten times over, as many as a generation's guesses. The peer is `rouge_score` as it is,
one pair after another in one process; both are seen to score the same. Beginning the workers is not
counted: it is done once. Medians over the turns, interleaved.
"""

import statistics

import numpy as np
from absl import app
from rouge_score.rouge_scorer import RougeScorer

from benchmarks.common import Results, interleaved, ratio
from synthjax.summarize import prepare
from synthjax.summarize.measure import first_sentence
from synthjax.summarize.rouge import METRICS, rouge

TIMES, TURNS = 10, 5


def main(argv: list[str]) -> None:
    results = Results("rouge")
    splits = prepare.prepare("news").splits
    pairs = [pair for split in splits.values() for pair in split]
    references = [pair.summary for pair in pairs] * TIMES
    guesses = [first_sentence(pair.text) for pair in pairs] * TIMES

    def peer():
        scorer = RougeScorer(list(METRICS), use_stemmer=True)
        found = [scorer.score(r, g) for g, r in zip(guesses, references, strict=True)]
        return [[one[name].fmeasure for name in METRICS] for one in found]

    np.testing.assert_array_equal(rouge(guesses, references), np.array(peer(), np.float32))
    seconds = interleaved({"synthjax": lambda: rouge(guesses, references), "peer": peer}, TURNS)
    each = {name: len(guesses) / statistics.median(taken) for name, taken in seconds.items()}
    results.add(
        pairs=len(guesses),
        mean_rouge=[round(float(value), 4) for value in rouge(guesses, references).mean(0)],
        **{f"{name}_pairs_per_s": round(value) for name, value in each.items()},
        ratio=round(ratio(seconds["peer"], seconds["synthjax"]), 2),
        turns=TURNS,
    )


if __name__ == "__main__":
    app.run(main)
