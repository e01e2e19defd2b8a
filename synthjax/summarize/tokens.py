"""How an article and its summary become the tokens of one text, and tokens a summary again.

    <bos> article … \\nTL;DR: summary <eos>

The article is cut where it would not fit, the summary never.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

SEPARATOR = "\nTL;DR:"
SYMBOLS = ("<pad>", "<bos>", "<eos>")
# Characters of an article that can matter, to each token: the rest need not be tokenized.
CHARACTERS = 16


def train(texts: Iterable[str], size: int) -> Any:
    """A byte-level BPE tokenizer of `size` symbols at most, learned from texts (Sennrich 2016)."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SYMBOLS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, bos, eos = SYMBOLS
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos
    )


@dataclasses.dataclass(frozen=True)
class Format:
    """Texts of up to `block` tokens, in which summaries have `summary` at most when guessed.

    `eos`: the token with which a text ends.
    """

    tokenizer: Any
    eos: int
    block: int
    summary: int

    def targets(self, summaries: Sequence[str]) -> list[list[int]]:
        """The tokens of summaries, with the end."""
        return [[*ids, self.eos] for ids in self._ids([f" {text}" for text in summaries])]

    def prompts(
        self, articles: Sequence[str], room: Sequence[int] | None = None
    ) -> list[list[int]]:
        """The tokens before summaries, for each of which there must be `room`, or `summary`."""
        cut = [text[: self.block * CHARACTERS] for text in articles]
        end = self._ids([SEPARATOR])[0]
        bos = self.tokenizer.bos_token_id
        begin = [] if bos is None else [bos]
        fixed = len(begin) + len(end)
        found = []
        for i, ids in enumerate(self._ids(cut)):
            need = self.summary if room is None else max(self.summary, room[i])
            found.append([*begin, *ids[: max(self.block - need - fixed, 0)], *end])
        return found

    def read(self, tokens: Iterable[int]) -> str:
        """The summary in tokens, to its end."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
