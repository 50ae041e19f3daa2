"""`python -m benchmarks NAME...`: prints tables, draws pictures, and appends a JSON line each to results.jsonl."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from benchmarks import (
    answer_times,
    crash_cost,
    followed,
    many_batches,
    memory,
    overhead,
    rate,
    server,
    shared_log,
    slots,
    start_up,
    throughput,
)
from benchmarks.results import Size, note

BENCHMARKS: dict[str, Callable[[Size], dict[str, Any]]] = {
    "throughput": throughput.measure,
    "overhead": overhead.measure,
    "start-up": start_up.measure,
    "answer-times": answer_times.measure,
    "crash-cost": crash_cost.measure,
    "slots": slots.measure,
    "memory": memory.measure,
    "followed": followed.measure,
    "shared-log": shared_log.measure,
    "many-batches": many_batches.measure,
    "rate": lambda size: rate.measure(size.jobs or 10_000),
    "server": lambda size: server.measure(size.jobs or 10_000),
}


def main() -> None:
    """Run the benchmarks that are named, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--jobs", type=int, help="jobs (Runs, slots) of each measurement; default: the benchmark's own")
    parser.add_argument("--rounds", type=int, help="rounds, where sides are compared")
    parser.add_argument("--before", metavar="PYTHON", help="answer-times: of an environment with an earlier version")
    asked = parser.parse_args()
    for name in asked.names:
        load = os.getloadavg()
        note(name, BENCHMARKS[name](Size(jobs=asked.jobs, rounds=asked.rounds, before=asked.before)), load)


if __name__ == "__main__":
    main()
