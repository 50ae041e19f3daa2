"""Durable throughput against what people would use instead: jobs of zero length, each with start, poll and items.

All sides take turns in one call, each in a process of its own on one core; the responder has the other one.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import pictures
from benchmarks.counterpart import Counterpart, ceiling_per_s, open_responder, run_side
from benchmarks.results import Size, print_table, spread, spread_words

SIDES = ("plain", "batchrun", "apify-client", "httpx")
SLOTS = (64, 256)
JOBS = 5_000
ROUNDS = 3
#: The slower a side is, the fewer jobs it gets, so that a round is short; never fewer than two per slot.
SHARES = {"plain": 1.0, "batchrun": 1.0, "apify-client": 0.5, "httpx": 0.1}


def measure(size: Size) -> dict[str, Any]:
    """Measure all sides at both numbers of slots; takes about three minutes."""
    figures: dict[str, Any] = {"rounds": size.rounds or ROUNDS}
    with open_responder() as responder:
        figures["responder_ceiling_per_s"] = ceiling_per_s(responder)
        for slots in SLOTS:
            found = [_round(responder, slots, size.jobs or JOBS, turn) for turn in range(figures["rounds"])]
            figures[f"{slots}_slots"] = _figures(found)
            _print(slots, figures[f"{slots}_slots"])
    print_table("The responder's ceiling", ("request", "per s"), list(figures["responder_ceiling_per_s"].items()))
    pictures.throughput(figures, SLOTS, SIDES)
    return figures


def _round(responder: Counterpart, slots: int, jobs: int, turn: int) -> dict[str, dict[str, float]]:
    # Who is first takes turns, so that a machine that gets busier favours nobody.
    order = SIDES[turn % len(SIDES) :] + SIDES[: turn % len(SIDES)]
    return {side: side_of(responder, side, slots, max(2 * slots, round(jobs * SHARES[side]))) for side in order}


def side_of(responder: Counterpart, side: str, slots: int, jobs: int, **more: Any) -> dict[str, Any]:
    """Run one side once; returns its figures per job."""
    with job_directory(jobs) as directory:
        responder.empty_lists()
        before = responder.stats()
        order = {"side": side, "base_url": responder.base_url, "jobs": jobs, "slots": slots}
        found = run_side("benchmarks.sides", order | {"directory": str(directory)} | more)
        after = responder.stats()
    return found | {
        "jobs_per_s": jobs / found["elapsed_s"],
        "cpu_us_per_job": found["cpu_s"] / jobs * 1e6,
        "responder_busy": (after["cpu_s"] - before["cpu_s"]) / found["elapsed_s"],
        "requests_per_job": sum(_requests(after)) / jobs - sum(_requests(before)) / jobs,
    }


def _requests(stats: dict[str, Any]) -> Iterator[int]:
    return (count for kind, count in stats["requests"].items() if kind != "other")


@contextmanager
def job_directory(jobs: int) -> Iterator[Path]:
    """Make a directory with a job file; TMPDIR is to be a disk, since what is synced there is to be paid for."""
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        with Path(name, "jobs.jsonl").open("w") as file:
            file.writelines(f'{{"n": {n}}}\n' for n in range(jobs))
        yield Path(name)


def _figures(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    sides = {
        side: {
            "jobs_per_s": spread([each[side]["jobs_per_s"] for each in rounds], 0),
            "cpu_us_per_job": spread([each[side]["cpu_us_per_job"] for each in rounds], 0),
            "peak_rss_mb": spread([each[side]["peak_rss_mb"] for each in rounds], 1),
            "responder_busy": spread([each[side]["responder_busy"] for each in rounds]),
            "requests_per_job": spread([each[side]["requests_per_job"] for each in rounds]),
        }
        for side in SIDES
    }
    # By round: two sides that were measured within seconds of one another have met the same neighbours.
    ratios = {
        f"batchrun_to_{side}": {
            "jobs_per_s": spread([each["batchrun"]["jobs_per_s"] / each[side]["jobs_per_s"] for each in rounds]),
            "cpu": spread([each[side]["cpu_us_per_job"] / each["batchrun"]["cpu_us_per_job"] for each in rounds]),
        }
        for side in SIDES
        if side != "batchrun"
    }
    beyond = [each["batchrun"]["cpu_us_per_job"] - each["plain"]["cpu_us_per_job"] for each in rounds]
    return {"sides": sides, "ratios": ratios, "cpu_us_beyond_plain": spread(beyond, 0)}


def _print(slots: int, figures: dict[str, Any]) -> None:
    sides, ratios = figures["sides"], figures["ratios"]
    rows = []
    for side in SIDES:
        found, ratio = sides[side], ratios.get(f"batchrun_to_{side}")
        rows.append(
            (
                side,
                spread_words(found["jobs_per_s"]),
                spread_words(found["cpu_us_per_job"]),
                "" if ratio is None else spread_words(ratio["jobs_per_s"]),
                "" if ratio is None else spread_words(ratio["cpu"]),
                f"{found['responder_busy']['max']:.0%}",
            )
        )
    headings = ("side", "jobs per s", "CPU µs per job", "batchrun : it", "by CPU", "responder busy")
    print_table(f"Throughput with {slots} slots: median (range)", headings, rows)
