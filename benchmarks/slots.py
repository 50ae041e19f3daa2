"""How well slots are used: Runs of 15 to 25 seconds, 150 ms of network between the platform and who starts them.

batchrun, the naive loop (which collects before it starts the next one) and a fixed cooldown of ten seconds, at the same
time, each against a responder of its own. The use is the platform's: live Runs over slots, from the first start to the
last one, while jobs were waiting. A place cannot be filled before the end of its Run has travelled to us and the start
back, so that the best there is falls short of 100 % by that time.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import pictures
from benchmarks.counterpart import open_responder
from benchmarks.results import Size, print_table
from benchmarks.throughput import side_of

SLOTS = 256
#: Jobs per slot.
WAVES = 4
RUN_S = (15.0, 25.0)
DELAY_S = 0.15
SIDES = ("batchrun", "plain", "cooldown")


def measure(size: Size) -> dict[str, Any]:
    """Measure all three at once; takes as long as four Runs one after another."""
    slots = size.jobs or SLOTS
    with ThreadPoolExecutor(len(SIDES)) as pool:
        found = dict(zip(SIDES, pool.map(lambda side: _side(side, slots), SIDES), strict=True))
    mean_s = sum(RUN_S) / 2
    figures = {
        "slots": slots,
        "jobs": slots * WAVES,
        "run_s": RUN_S,
        "round_trip_s": DELAY_S,
        "best_possible": round(mean_s / (mean_s + DELAY_S), 4),
        "sides": found,
    }
    rows = [
        (
            side,
            f"{each['slot_use']:.2%}",
            f"{1000 * each['refill_p50_s']:.0f} ms",
            f"{1000 * each['refill_p99_s']:.0f} ms",
            "" if each["own_refill_p99_s"] is None else f"{1000 * each['own_refill_p99_s']:.1f} ms",
            f"{each['elapsed_s']:.1f} s",
        )
        for side, each in found.items()
    ]
    headings = ("side", "slot use", "refill p50", "refill p99", "without the network, p99", "took")
    print_table(f"{slots} slots, best possible {figures['best_possible']:.2%}", headings, rows)
    pictures.slots(figures)
    return figures


def _side(side: str, slots: int) -> dict[str, Any]:
    with open_responder(run_s=RUN_S, delay_s=DELAY_S) as responder:
        found = side_of(responder, side, slots, slots * WAVES)
        stats = responder.stats()
    span_s = stats["last_start"] - stats["first_start"]
    refills = stats["refills_s"]
    return {
        "slot_use": round(stats["busy_s_at_last_start"] / (span_s * slots), 4),
        "most_live": stats["most_live"],
        "refill_p50_s": round(refills[len(refills) // 2], 4),
        "refill_p99_s": round(refills[len(refills) * 99 // 100], 4),
        "own_slot_use": found.get("slot_use"),
        "own_refill_p99_s": found.get("refill_p99_s"),
        "elapsed_s": round(found["elapsed_s"], 1),
    }
