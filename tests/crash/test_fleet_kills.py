"""A fleet of three workers, killed at random: no job is lost or doubled, no limit is exceeded."""

import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.support import log_stores
from tests.support.crash import Api, open_api, wait_until
from tests.support.fleets import FleetProcesses, assert_every_batch_right, longest_gap_s
from tests.support.log_stores import Store
from tests.support.patience import SOON_SETTLED_S
from tests.support.worker_life import most_at_once

#: Long enough for a busy machine, on which a worker is not heard of for a second or two.
LEASE_S = 2.0
#: The emulator of S3 answers some 130 requests per second, fewer than a fleet with ten batches sends at leases of 2 s.
S3_LEASE_S = 8.0
MAX_RUNS = 12
#: Of ten Runs: less than `MAX_RUNS` need.
MAX_MEMORY_MB = 1280
STORES: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "directory": log_stores.directory,
    "nats": log_stores.nats,
    "nats-3": partial(log_stores.nats, servers=3),
    "s3": log_stores.s3,
}


def _config(url: str, lease_s: float) -> str:
    return (
        f'[worker]\nfleet = "{url}"\nlease_s = {lease_s}\n'
        f"[limits]\nmax_concurrent_runs = {MAX_RUNS}\nmax_total_memory_mb = {MAX_MEMORY_MB}\n"
    )


def _lease_s(store: str) -> float:
    return S3_LEASE_S if store == "s3" else LEASE_S


def _jobs(count: int, seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        {"n": n, "ms": chance.choice([50, 200, 400]), "items": chance.choice([0, 1, 3]), "fails": n % 23 == 7}
        for n in range(count)
    ]


def _stop_some(fleet: FleetProcesses, chance: random.Random, kills: int) -> int:
    """Kill, freeze or end a worker, again and again, and bring it back; return how often."""
    done = 0
    while done < kills and set(fleet.states().values()) != {"finished"}:
        time.sleep(chance.uniform(0.5, 1.5))
        worker = chance.choice(fleet.workers)
        match chance.choice(["kill", "freeze", "end"]):
            case "kill":
                worker.kill()
                time.sleep(chance.choice([0.0, 2.0]))
                worker.start()
            case "freeze":
                worker.process.send_signal(signal.SIGSTOP)
                time.sleep(chance.choice([0.5, 4.0]))
                worker.process.send_signal(signal.SIGCONT)
            case "end":
                assert worker.stop() == 0, fleet.said()
                worker.start()
        done += 1
    return done


def _forms(short_jobs: int, long_jobs: int) -> pytest.MarkDecorator:
    """Return the forms of a test: a short one on a directory, and long ones on each store with two seeds."""
    long = [(store, 20, long_jobs, seed) for store in STORES for seed in (2, 3)]
    forms = [("directory", 4, short_jobs, 1), *(pytest.param(*form, marks=pytest.mark.long) for form in long)]
    return pytest.mark.parametrize(("store", "kills", "jobs", "seed"), forms)


@contextmanager
def _fleet(tmp_path: Path, store: str, usage_settle_s: float = 0.0) -> Iterator[tuple[FleetProcesses, Api]]:
    """Run three workers of one fleet and their platform."""
    with ExitStack() as stack:
        opened = stack.enter_context(STORES[store](tmp_path / "store"))
        api = stack.enter_context(open_api(tmp_path / "api", usage_settle_s=usage_settle_s))
        environ = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in opened.environ.items():
            environ.setenv(name, value)
        url = opened.log("fleet")
        yield stack.enter_context(FleetProcesses(tmp_path, api, url, 3, _config(url, _lease_s(store)))), api


@_forms(short_jobs=20, long_jobs=150)
def test_ten_batches_survive_any_number_of_kills(tmp_path, record_property, store, kills, jobs, seed):
    """Each batch is carried out once, whichever worker has it; all workers together keep the limits."""
    with _fleet(tmp_path, store) as (fleet, api):
        for n in range(10):
            fleet.submit(f"batch-{n}", _jobs(jobs, seed + n), limits__start_horizon_s=_lease_s(store) + 1)
        record_property("kills", _stop_some(fleet, random.Random(seed), kills))
        wait_until(lambda: set(fleet.states().values()) == {"finished"}, 600)
        runs = api.runs()
        record_property("longest_gap_s", longest_gap_s(runs))
        record_property("longest_gap_meant_s", 1.5 * _lease_s(store) + 2)
        assert most_at_once(runs) <= MAX_MEMORY_MB // 128, fleet.said()
        assert_every_batch_right(fleet, api)


#: What one Run may cost: 128 MB for a minute.
ONE_RUN_USD = 0.25 * 128 / 1024 * 60 / 3600
#: Less than `MAX_RUNS` and than memory for ten Runs allow.
MAX_AFFORDABLE = 8


def _most_usd(runs: Sequence[Mapping[str, Any]]) -> float:
    """Return the most that was spent, and bound by live Runs, at any time: the server knows when each Run was live."""
    changes = [(datetime.fromisoformat(run["startedAt"]), ONE_RUN_USD) for run in runs]
    changes += [(datetime.fromisoformat(run["finishedAt"]), run["usageTotalUsd"] - ONE_RUN_USD) for run in runs]
    return max(accumulate(usd for _, usd in sorted(changes)))


@_forms(short_jobs=48, long_jobs=120)
def test_one_batch_in_shards_survives_any_number_of_kills(tmp_path, record_property, store, kills, jobs, seed):
    """Each job is carried out once, and all shards together keep the budget, whichever workers have them."""
    budget_usd = (MAX_AFFORDABLE + 0.5) * ONE_RUN_USD
    with _fleet(tmp_path, store, SOON_SETTLED_S) as (fleet, api):
        fleet.submit(
            "shop", _jobs(jobs, seed), shards=8, limits__start_horizon_s=_lease_s(store) + 1, run__timeout_s=60,
            limits__budget_usd=budget_usd, limits__compute_unit_usd=0.25,
        )  # fmt: skip
        record_property("kills", _stop_some(fleet, random.Random(seed), kills))
        wait_until(lambda: set(fleet.states().values()) == {"finished"}, 600)
        runs = api.runs()
        record_property("longest_gap_s", longest_gap_s(runs))
        record_property("longest_gap_meant_s", 1.5 * _lease_s(store) + 2)
        record_property("most_at_once", most_at_once(runs))
        record_property("most_usd_of_budget", _most_usd(runs) / budget_usd)
        assert _most_usd(runs) <= budget_usd, fleet.said()
        assert_every_batch_right(fleet, api)
