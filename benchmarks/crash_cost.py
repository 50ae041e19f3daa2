"""What durability costs: the same batch with every sync left out, in turns, and how much each commit carries."""

from typing import Any

from benchmarks import pictures
from benchmarks.counterpart import open_responder
from benchmarks.results import Size, print_table, spread, spread_words
from benchmarks.throughput import side_of

JOBS = 5_000
ROUNDS = 3
SLOTS = (16, 64, 256)


def measure(size: Size) -> dict[str, Any]:
    """Measure synced and unsynced runs in turns; takes about two minutes."""
    jobs, rounds = size.jobs or JOBS, size.rounds or ROUNDS
    figures: dict[str, Any] = {"jobs": jobs, "rounds": rounds}
    with open_responder() as responder:
        for slots in SLOTS:
            found: dict[str, list[dict[str, Any]]] = {"durable": [], "unsynced": []}
            for turn in range(rounds):
                for name in sorted(found, reverse=turn % 2 == 1):
                    found[name].append(side_of(responder, "batchrun", slots, jobs, unsynced=name == "unsynced"))
            pairs = list(zip(found["durable"], found["unsynced"], strict=True))
            figures[f"{slots}_slots"] = {
                **{name: _figures(each) for name, each in found.items()},
                "durable_to_unsynced": spread([one["jobs_per_s"] / other["jobs_per_s"] for one, other in pairs]),
            }
    rows = [
        (
            f"{slots} slots, {name}",
            spread_words(each["jobs_per_s"]),
            spread_words(each["cpu_us_per_job"]),
            each["commits"]["median"],
            each["steps_per_commit"]["median"],
            each["steps_max"]["max"],
        )
        for slots in SLOTS
        for name, each in figures[f"{slots}_slots"].items()
        if name != "durable_to_unsynced"
    ]
    headings = ("", "jobs per s", "CPU µs per job", "commits", "steps per commit", "most steps")
    print_table(f"{jobs} jobs: median (range)", headings, rows)
    pictures.crash_cost(figures, SLOTS)
    return figures


def _figures(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("jobs_per_s", "cpu_us_per_job", "commits", "steps_per_commit", "steps_p50", "steps_max")
    return {name: spread([each[name] for each in rounds], 1) for name in names}
