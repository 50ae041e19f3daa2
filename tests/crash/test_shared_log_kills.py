"""Batches whose owners die, sleep and lose their log; each process works in a new empty directory."""

import random
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.support import log_stores
from tests.support.crash import PROCESS_LIMIT_S, Api, CrashBatch, assert_promise_kept, open_api, some_jobs, wait_until
from tests.support.forked import ForkedProcess
from tests.support.log_stores import Store

#: Short, so that a take-over is: the next owner waits 1.5 times that.
LEASE_S = 0.6
STORES: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "directory": log_stores.directory,
    "nats": log_stores.nats,
    "s3": log_stores.s3,
}
LONG_STORES: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "nats of three": partial(log_stores.nats, servers=3),
    "azure": log_stores.azure,
}
#: Each arrow of the start protocol, with the one between the log and this machine.
KILL_POINTS = ["admitted:1", "intended:9", "answered:9", "bound:9", "terminal:9", "collected:9", "shared:1", "shared:7",
               "appended:5", "committed:9", "settled:9"]  # fmt: skip


@pytest.fixture(scope="module", params=[*STORES, *(pytest.param(each, marks=pytest.mark.long) for each in LONG_STORES)])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of each kind, one for all tests here."""
    if request.param == "azure" and not log_stores.has_azurite():
        pytest.skip("azurite is not installed")
    with (STORES | LONG_STORES)[request.param](tmp_path_factory.mktemp("store")) as opened:
        yield opened


class Machines:
    """Machines that have nothing in common but the log and the job file."""

    def __init__(self, directory: Path, api: Api, store: Store, jobs: list[dict[str, Any]], **settings: Any) -> None:
        self._directory = directory
        self._api = api
        self._jobs = jobs
        self._settings = {"replica.url": store.log(directory.name), "replica.lease_s": LEASE_S, **settings}
        self._environ = store.environ
        self.all: list[CrashBatch] = []

    def new(self, kill_at: str = "", **settings: Any) -> tuple[CrashBatch, ForkedProcess]:
        """Start a process on a new machine."""
        machine = CrashBatch(
            self._directory / f"machine-{len(self.all)}", self._api.base_url, self._jobs, self._settings | settings,
            environ=self._environ,
        )  # fmt: skip
        self.all.append(machine)
        return machine, machine.spawn(kill_at=kill_at)

    def kill(self, process: ForkedProcess) -> None:
        """Kill a process."""
        process.kill()
        process.wait(PROCESS_LIMIT_S)


def _has_begun(machine: CrashBatch) -> bool:
    """True if the machine's process owns the batch."""
    return "Account local" in machine.said()


@pytest.mark.parametrize("kill_at", KILL_POINTS)
def test_a_machine_that_dies_at_an_arrow_of_the_protocol_is_replaced(tmp_path, kill_at):
    """The next one, with an empty directory, finds every Run again; so has the first one once it is back."""
    with log_stores.directory(tmp_path / "logs") as store, open_api(tmp_path / "api") as api:
        machines = Machines(tmp_path, api, store, some_jobs(30))
        first, process = machines.new(kill_at)
        assert process.wait(PROCESS_LIMIT_S) == -signal.SIGKILL, first.said()
        second, process = machines.new()
        assert process.wait(PROCESS_LIMIT_S) == 1, second.said()
        assert_promise_kept(second, api)
        assert first.spawn().wait(PROCESS_LIMIT_S) == 1, first.said()
        assert_promise_kept(first, api)
        assert (first.out / "items.jsonl").read_bytes() == (second.out / "items.jsonl").read_bytes()


def _carry_on(machines: Machines, chance: random.Random, take_overs: int) -> CrashBatch:
    """Kill or stop owner after owner while the next one stands by; return the machine that has finished the batch."""
    stopped: list[tuple[CrashBatch, ForkedProcess]] = []
    machine, process = machines.new()
    wait_until(lambda: _has_begun(machine))
    for _ in range(take_overs):
        successor, next_process = machines.new()
        if _wait_a_little(process, chance.uniform(0.0, 0.5)):
            machine, process = successor, next_process
            break
        if chance.random() < 0.5:
            machines.kill(process)
        else:
            process.send_signal(signal.SIGSTOP)
            stopped.append((machine, process))
        machine, process = successor, next_process
        wait_until(lambda: _has_begun(machine))  # noqa: B023 - called at once
        if chance.random() < 0.5:
            _wake(stopped)
    code = process.wait(PROCESS_LIMIT_S)
    _wake(stopped)
    assert code == 1, machine.said()
    return machine


def _wait_a_little(process: ForkedProcess, seconds: float) -> bool:
    """Return True if a process ends within some time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _wake(stopped: list[tuple[CrashBatch, ForkedProcess]]) -> None:
    """Wake processes that were overtaken: each says by whom, and ends."""
    while stopped:
        machine, process = stopped.pop()
        process.send_signal(signal.SIGCONT)
        code = process.wait(PROCESS_LIMIT_S)
        assert code == 6, (code, machine.said())
        assert "has taken the batch over" in machine.said()


def test_a_batch_moves_from_machine_to_machine(tmp_path, store):
    """Owners die, or sleep and wake too late; none starts a Run once another has taken over."""
    with open_api(tmp_path / "api") as api:
        machines = Machines(tmp_path, api, store, some_jobs(150))
        assert_promise_kept(_carry_on(machines, random.Random(1), take_overs=5), api)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_the_long_form(tmp_path, store, seed, record_property):
    """The same with longer chains."""
    with open_api(tmp_path / "api") as api:
        machines = Machines(tmp_path, api, store, some_jobs(500))
        assert_promise_kept(_carry_on(machines, random.Random(100 + seed), take_overs=12), api)
        record_property("take_overs", len(machines.all) - 1)


def test_two_machines_that_begin_at_once_carry_a_batch_out_once(tmp_path, store):
    """One claims the log, the other stands by and finds a finished batch."""
    with open_api(tmp_path / "api") as api:
        machines = Machines(tmp_path, api, store, some_jobs(40))
        (one, first), (two, second) = machines.new(), machines.new()
        assert (first.wait(PROCESS_LIMIT_S), second.wait(PROCESS_LIMIT_S)) == (1, 1), (one.said(), two.said())
        assert_promise_kept(one, api)
        assert_promise_kept(two, api)
        assert [machine for machine in (one, two) if "carries the batch out" in machine.said()]


def test_a_machine_that_may_not_stand_by_says_who_carries_the_batch_out(tmp_path, store):
    """It exits at once, and has started nothing."""
    with open_api(tmp_path / "api") as api:
        machines = Machines(tmp_path, api, store, [{"n": 0, "ms": 5_000, "items": 0}])
        owner, process = machines.new()
        wait_until(lambda: _has_begun(owner))
        other, refused = machines.new(**{"replica.standby": "false"})
        assert refused.wait(PROCESS_LIMIT_S) == 6
        assert f"(process {process.pid}) carries the batch out" in other.said()
        machines.kill(process)
        assert len(api.runs()) <= 1


def test_a_log_that_is_gone_for_a_while_stops_starts_and_nothing_else(tmp_path):
    """Live Runs are followed; once it is back, the batch goes on, in the same process."""
    with open_api(tmp_path / "api") as api, log_stores.directory(tmp_path / "logs") as store:
        machines = Machines(tmp_path, api, store, some_jobs(120))
        owner, process = machines.new()
        wait_until(lambda: len(api.runs()) > 20)
        log = tmp_path / "logs" / tmp_path.name
        log.rename(tmp_path / "away")
        wait_until(lambda: "the shared log cannot be reached" in owner.said())
        started = len(api.runs())
        wait_until(lambda: all(run["status"] in ("SUCCEEDED", "FAILED") for run in api.runs()))
        assert len(api.runs()) == started
        assert process.poll() is None
        (tmp_path / "away").rename(log)
        assert process.wait(PROCESS_LIMIT_S) == 1, owner.said()
        assert_promise_kept(owner, api)


def test_a_machine_that_leaves_hands_the_batch_over_at_once(tmp_path, store):
    """Without 1.5 leases of silence, which are longer here than the successor is waited for."""
    ends = tmp_path / "ends"
    jobs = [{"n": n, "until": str(ends), "items": 1} for n in range(20)]
    with open_api(tmp_path / "api") as api:
        machines = Machines(tmp_path, api, store, jobs, **{"replica.lease_s": 600, "limits.start_horizon_s": 700})
        owner, process = machines.new()
        # No start is under way then, whose Run would be looked for until the horizon.
        wait_until(lambda: len(api.runs()) == 16)
        process.send_signal(signal.SIGHUP)
        assert process.wait(PROCESS_LIMIT_S) == 130, owner.said()
        ends.touch()
        successor, process = machines.new()
        assert process.wait(300) == 0, successor.said()
        assert_promise_kept(successor, api)


def test_a_log_can_be_read_without_batchrun(tmp_path):
    """With the lines that the documentation shows."""
    page = resources.files("batchrun").joinpath("docs", "more-than-one-machine.md").read_text("utf-8")
    reader: dict[str, Any] = {}
    exec(textwrap.dedent(page[page.index("    import json") :]), reader)
    with log_stores.directory(tmp_path / "logs") as store, open_api(tmp_path / "api") as api:
        machines = Machines(tmp_path, api, store, some_jobs(30))
        owner, process = machines.new()
        assert process.wait(PROCESS_LIMIT_S) == 1, owner.said()
    assert reader["read_records"](tmp_path / "logs" / tmp_path.name) == owner.records()
