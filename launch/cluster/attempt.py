"""Run a launcher where a cluster starts it again: exit code 75 says that it has to.

    python -m launch.cluster.attempt launch.NAME FLAGS...

A launcher that SIGTERM stopped ends with 0, as one that is done does, and says so only in words
("Stopped: ..."). Kubernetes would count it as completed, SLURM too. Here it ends with 75, for which
sysexits.h says "try again"; any other end keeps its code. SIGTERM is passed on, so that this may be
a container's first process.
"""

import signal
import subprocess
import sys

AGAIN = 75


def main() -> None:
    """Run it, its output passed on, and end with its code or 75."""
    command = [sys.executable, "-m", *sys.argv[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        stopped = False
        for line in process.stdout:
            print(line, end="", flush=True)
            stopped |= line.startswith("Stopped: ")
    code = process.returncode
    sys.exit(AGAIN if stopped and not code else code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
