"""p, φ, ψ and p* of a labelled sample, and whether training on the selection is predicted to help.

    python -m launch.proxy --data=FILE.jsonl

FILE.jsonl holds one guess a line: was it correct, and did the verifier keep it? For example

    {"correct": true, "kept": true}
    {"correct": false, "kept": false}

1 and 0 will do for true and false; other fields are ignored.
"""

import sys

from synthjax.protocol import proxy
from synthjax.protocol.flags import define_path, fail, launch

_DATA = define_path("data", "JSON-lines file with the fields correct and kept.")


def main() -> None:
    """Print the table."""
    if _DATA.value is None:
        fail("needs --data=FILE.jsonl (--help says more)")
    measured = proxy.measure(*proxy.read_jsonl(_DATA.value))
    sys.stdout.reconfigure(errors="replace")  # φ on a terminal that has no φ
    print(proxy.report(measured))


if __name__ == "__main__":
    launch(main, (proxy.SampleError,))
