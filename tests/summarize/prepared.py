"""What `prepare` gave, whatever the split."""

from synthjax.summarize import pairs


def everything(prepared):
    return [pair for split in pairs.SPLITS for pair in prepared.splits[split]]


def one(prepared):
    (pair,) = everything(prepared)
    return pair
