"""`python -m benchmarks NAME [JOBS]`: prints a table and appends one JSON line to benchmarks/results.jsonl."""

import json
import platform
import sys
from pathlib import Path

from batchrun.version import __version__
from benchmarks import memory

RESULTS = Path(__file__).with_name("results.jsonl")
BENCHMARKS = {"memory": memory.measure}


def main() -> None:
    """Run one benchmark."""
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        sys.exit(f"usage: python -m benchmarks {'|'.join(BENCHMARKS)} [JOBS]")
    name = sys.argv[1]
    figures = BENCHMARKS[name](int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
    line = {"benchmark": name, "batchrun": __version__, "python": platform.python_version(), **figures}
    with RESULTS.open("a") as results:
        results.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
