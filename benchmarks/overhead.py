"""CPU time of batchrun per job, by stage: source, ledger, sink, engine, log, client, HTTP, loop.

The main thread's share is sampled (`stages`); what the worker threads do is timed where it is called. Sampling costs
time itself, so that the sum is scaled to what an unsampled run of the same round takes. Beside it the plain loop, whose
whole CPU time is that of the requests.
"""

from typing import Any

from benchmarks import pictures
from benchmarks.counterpart import open_responder
from benchmarks.results import Size, print_table, spread, spread_words
from benchmarks.stages import ORDER
from benchmarks.throughput import side_of

JOBS = 5_000
ROUNDS = 3
SLOTS = 256


def measure(size: Size) -> dict[str, Any]:
    """Measure plain, unsampled and sampled runs in turns; takes about a minute."""
    jobs, rounds = size.jobs or JOBS, size.rounds or ROUNDS
    plain, whole = list[float](), list[float]()
    stages: dict[str, list[float]] = {stage: [] for stage in ORDER}
    with open_responder() as responder:
        for _ in range(rounds):
            plain.append(side_of(responder, "plain", SLOTS, jobs)["cpu_us_per_job"])
            whole.append(side_of(responder, "batchrun", SLOTS, jobs)["cpu_us_per_job"])
            sampled = side_of(responder, "batchrun", SLOTS, jobs, sampled=True)["stages_s"]
            scale = whole[-1] / sum(sampled.values())
            for stage in ORDER:
                stages[stage].append(sampled.get(stage, 0.0) * scale)
    figures: dict[str, Any] = {
        "jobs": jobs,
        "rounds": rounds,
        "slots": SLOTS,
        "plain_cpu_us_per_job": spread(plain, 0),
        "cpu_us_per_job": spread(whole, 0),
        "beyond_plain_us": spread([ours - theirs for ours, theirs in zip(whole, plain, strict=True)], 0),
        "stages_us": {stage: spread(found, 0) for stage, found in stages.items()},
    }
    rows = [(stage, spread_words(found)) for stage, found in figures["stages_us"].items()]
    rows += [
        ("whole", spread_words(figures["cpu_us_per_job"])),
        ("plain", spread_words(figures["plain_cpu_us_per_job"])),
    ]
    print_table(f"CPU µs per job with {SLOTS} slots: median (range)", ("stage", "µs"), rows)
    pictures.overhead(figures)
    return figures
