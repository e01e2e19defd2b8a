"""p, φ, ψ and p* of a labelled sample, and whether training on the selection is predicted to help.

    python -m launch.proxy --data=FILE.jsonl

FILE.jsonl holds one guess a line: was it correct, and did the verifier keep it? For example

    {"correct": true, "kept": true}
    {"correct": false, "kept": false}

1 and 0 will do for true and false; other fields are ignored.
"""

import sys
from typing import NoReturn

from absl import app, flags

from synthjax.protocol import proxy

_DATA = flags.DEFINE_string("data", None, "JSON-lines file with the fields correct and kept.")


def main(argv: list[str]) -> None:
    """Prints the table; exits with 2 and one line where the data or the flags are wrong."""
    if len(argv) > 1 or _DATA.value is None:
        _fail("usage: python -m launch.proxy --data=FILE.jsonl (--help says more)")
    try:
        measured = proxy.measure(*proxy.read_jsonl(_DATA.value))
    except proxy.SampleError as error:
        _fail(f"--data: {error}")
    sys.stdout.reconfigure(errors="replace")  # φ on a terminal that has no φ
    print(proxy.report(measured))


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(str(error))


def _fail(message) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
