"""Batches whose owners die, sleep and lose their log; each process works in a new empty directory."""

import random
import secrets
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.support import log_stores
from tests.support.crash import PROCESS_LIMIT_S, Api, CrashBatch, assert_promise_kept, open_api, some_jobs, wait_until
from tests.support.forked import ForkedProcess
from tests.support.log_stores import Store
from tests.support.tcp_proxy import TcpProxy, proxy_to

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
#: Batches of a few jobs get snapshots, many of them, so that almost every machine begins with one.
OFTEN = {
    "batchrun.ledger.shared_log.snapshots.MIN_BYTES": 0,
    "batchrun.ledger.shared_log.snapshots.GROWTH": 1.0,
    "batchrun.ledger.shared_log.snapshots.PIECE_BYTES": 40_000,
    "batchrun.ledger.shared_log.claim.SHORTEN_EVERY_S": 0.1,
}
#: Each arrow of the start protocol, with the one between the log and this machine.
ARROWS = ["admitted:1", "intended:3", "answered:3", "bound:3", "terminal:3", "collected:3", "shared:1", "shared:5",
          "appended:3", "committed:5", "settled:3"]  # fmt: skip


#: Max live Runs of a batch here.
SLOTS = 16


def _held_jobs(count: int, ends: Path) -> list[dict[str, Any]]:
    """Return jobs whose Runs go on until a file exists."""
    return [{"n": n, "until": str(ends), "items": 1} for n in range(count)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One server process for all tests here."""
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        yield opened


@pytest.fixture
def api(server: Api) -> Api:
    """The server, without the Runs of earlier tests."""
    return server.fresh()


@pytest.fixture(scope="module", params=[*STORES, *(pytest.param(each, marks=pytest.mark.long) for each in LONG_STORES)])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of each kind, one for all tests here."""
    if request.param == "azure" and not log_stores.has_azurite():
        pytest.skip("azurite is not installed")
    with (STORES | LONG_STORES)[request.param](tmp_path_factory.mktemp("store")) as opened:
        yield opened


class Machines:
    """Machines that have nothing in common but the log; the job file is on the first one."""

    def __init__(self, directory: Path, api: Api, store: Store, jobs: list[dict[str, Any]], **settings: Any) -> None:
        self._directory = directory
        self._api = api
        self._store = store
        self._jobs = jobs
        # Of a task of their own: Runs of another test's, begun just before, may be those of starts in doubt.
        self._settings = {"replica.lease_s": LEASE_S, "task.name": f"task-{secrets.token_hex(4)}", **settings}
        self.all: list[CrashBatch] = []

    def new(
        self, kill_at: str = "", proxy: TcpProxy | None = None, **settings: Any
    ) -> tuple[CrashBatch, ForkedProcess]:
        """Start a process on a new machine, which reaches the log through a proxy if there is one."""
        store = self._store if proxy is None else self._store.through(proxy.port)
        directory = self._directory / f"machine-{len(self.all)}"
        url = {"replica.url": store.log(self._directory.name)}
        machine = CrashBatch(
            directory, self._api.base_url, self._jobs, url | self._settings | settings, environ=store.environ
        )
        machine.constants = OFTEN
        if self.all:
            (directory / "jobs.jsonl").unlink()
        self.all.append(machine)
        return machine, machine.spawn(kill_at=kill_at)

    def kill(self, process: ForkedProcess) -> None:
        """Kill a process."""
        process.kill()
        process.wait(PROCESS_LIMIT_S)


def _has_begun(machine: CrashBatch) -> bool:
    """True if the machine's process owns the batch."""
    return "Account local" in machine.said()


def _is_stopped(process: ForkedProcess) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _wake(stopped: list[tuple[CrashBatch, ForkedProcess]]) -> None:
    """Wake processes that were overtaken: each says by whom, and ends. One that had ended the batch just ends."""
    while stopped:
        machine, process = stopped.pop()
        process.send_signal(signal.SIGCONT)
        code = process.wait(PROCESS_LIMIT_S)
        assert code in (1, 6), (code, machine.said())
        assert (code == 6) == ("has taken the batch over" in machine.said()), machine.said()


def test_owners_that_die_at_each_arrow_are_replaced(tmp_path, api):
    """The next one, with an empty directory, finds every Run again; so has the first one once it is back."""
    with log_stores.directory(tmp_path / "logs") as store:
        machines = Machines(tmp_path, api, store, some_jobs(60))
        for arrow in ARROWS:
            machine, process = machines.new(arrow)
            assert process.wait(PROCESS_LIMIT_S) == -signal.SIGKILL, machine.said()
        last, process = machines.new()
        assert process.wait(PROCESS_LIMIT_S) == 1, last.said()
        assert_promise_kept(last, api)
        first = machines.all[0]
        assert first.spawn().wait(PROCESS_LIMIT_S) == 1, first.said()
        assert_promise_kept(first, api)
        assert (first.out / "items.jsonl").read_bytes() == (last.out / "items.jsonl").read_bytes()


def test_owners_that_sleep_at_each_arrow_are_replaced_and_start_nothing(tmp_path, api):
    """Every other one wakes once its successor works, the others at the end: each learns that it was overtaken."""
    with log_stores.directory(tmp_path / "logs") as store:
        machines, asleep = Machines(tmp_path, api, store, some_jobs(60)), list[tuple[CrashBatch, ForkedProcess]]()
        for n, arrow in enumerate(ARROWS):
            machine, process = machines.new(f"{arrow}:SIGSTOP")
            wait_until(lambda: _has_begun(machine))  # noqa: B023 - called at once
            if n % 2 == 0:
                _wake(asleep)
            wait_until(lambda: _is_stopped(process))  # noqa: B023 - called at once
            asleep.append((machine, process))
        last, process = machines.new()
        assert process.wait(PROCESS_LIMIT_S) == 1, last.said()
        _wake(asleep)
        assert_promise_kept(last, api)


def _carry_on(machines: Machines, chance: random.Random, take_overs: int, proxy: TcpProxy | None = None) -> CrashBatch:
    """Kill, stop or cut off owner after owner while the next one stands by; return the machine that has finished.

    Every other machine reaches the log through the proxy.
    """
    asleep: list[tuple[CrashBatch, ForkedProcess]] = []
    machine, process = machines.new(proxy=proxy)
    wait_until(lambda: _has_begun(machine))
    for n in range(take_overs):
        cuts = proxy is not None and n % 2 == 0
        successor, next_process = machines.new(proxy=None if cuts else proxy)
        if _wait_a_little(process, chance.uniform(0.0, 0.5)):
            machine, process = successor, next_process
            break
        if proxy is not None and cuts:
            proxy.cut(chance.choice(["requests", "answers", "both"]))
            asleep.append((machine, process))
        elif chance.random() < 0.5:
            machines.kill(process)
        else:
            process.send_signal(signal.SIGSTOP)
            asleep.append((machine, process))
        machine, process = successor, next_process
        wait_until(lambda: _has_begun(machine) or process.poll() is not None)  # noqa: B023 - called at once
        if proxy is not None:
            proxy.heal()
        if cuts or chance.random() < 0.5:
            _wake(asleep)
    code = process.wait(PROCESS_LIMIT_S)
    _wake(asleep)
    assert code == 1, machine.said()
    return machine


def _wait_a_little(process: ForkedProcess, seconds: float) -> bool:
    """Return True if a process ends within some time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def test_a_batch_moves_from_machine_to_machine(tmp_path, api, store):
    """Owners die, or sleep and wake too late; none starts a Run once another has taken over."""
    machines = Machines(tmp_path, api, store, some_jobs(60))
    assert_promise_kept(_carry_on(machines, random.Random(1), take_overs=2), api)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_the_long_form(tmp_path, store, seed, record_property):
    """The same with longer chains; where the store is behind a port, some owners are cut off from it."""
    with open_api(tmp_path / "api") as api, ExitStack() as stack:
        proxy = stack.enter_context(proxy_to(store.port)) if store.port else None
        machines = Machines(tmp_path, api, store, some_jobs(500))
        assert_promise_kept(_carry_on(machines, random.Random(100 + seed), take_overs=12, proxy=proxy), api)
        record_property("take_overs", len(machines.all) - 1)


def test_two_machines_that_begin_at_once_carry_a_batch_out_once(tmp_path, api, store):
    """One claims the log, the other stands by and finds a finished batch."""
    machines = Machines(tmp_path, api, store, some_jobs(20))
    (one, first), (two, second) = machines.new(), machines.new()
    codes = first.wait(PROCESS_LIMIT_S), second.wait(PROCESS_LIMIT_S)
    if (
        6 in codes
    ):  # servers that elect a leader for the new stream do not answer: said at once, and tried again by hand
        assert "timeout" in one.said() + two.said()
        codes = one.run(), two.run()
    if codes == (1, 2):  # the one without the job file was first
        assert "there is no such file" in two.said()
    else:
        assert codes == (1, 1), (one.said(), two.said())
        assert_promise_kept(two, api)
        said = one.said() + two.said()
        assert "carries the batch out" in said or "Nothing to do" in said
    assert_promise_kept(one, api)


def test_a_machine_that_may_not_stand_by_says_who_carries_the_batch_out(tmp_path, api):
    """It exits at once, and has started nothing."""
    with log_stores.directory(tmp_path / "logs") as store:
        machines = Machines(tmp_path, api, store, [{"n": 0, "ms": 5_000, "items": 0}])
        owner, process = machines.new()
        wait_until(lambda: _has_begun(owner))
        other, refused = machines.new("", None, **{"replica.standby": "false"})
        assert refused.wait(PROCESS_LIMIT_S) == 6
        assert f"(process {process.pid}) carries the batch out" in other.said()
        machines.kill(process)
        assert len(api.runs()) <= 1


@pytest.mark.parametrize("ways", ["requests", "answers", pytest.param("both", marks=pytest.mark.long)])
def test_an_owner_that_is_cut_off_is_replaced_and_starts_nothing(tmp_path, api, store, ways):
    """What it sent before and after the cut arrives late, and changes nothing."""
    if not store.port:
        pytest.skip("there is no network to be cut")
    with proxy_to(store.port) as proxy:
        ends = tmp_path / "ends"
        machines = Machines(tmp_path, api, store, _held_jobs(24, ends))
        owner, process = machines.new(proxy=proxy)
        wait_until(lambda: len(api.runs()) == SLOTS)
        proxy.cut(ways)
        ends.touch()
        successor, next_process = machines.new()
        assert next_process.wait(PROCESS_LIMIT_S) == 0, successor.said()
        assert process.poll() is None
        proxy.heal()
        _wake([(owner, process)])
        assert_promise_kept(successor, api)


def test_a_slow_network_is_no_silence(tmp_path, api, store):
    """The owner keeps its lease, and the standby finds a finished batch."""
    if not store.port:
        pytest.skip("there is no network that could be slow")
    with proxy_to(store.port) as proxy:
        proxy.delay_s = 0.03
        machines = Machines(
            tmp_path, api, store, some_jobs(20), **{"replica.lease_s": 2.0, "limits.start_horizon_s": 3}
        )
        owner, process = machines.new(proxy=proxy)
        wait_until(lambda: _has_begun(owner))
        standby, waiting = machines.new(proxy=proxy)
        assert process.wait(PROCESS_LIMIT_S) == 1, owner.said()
        assert waiting.wait(PROCESS_LIMIT_S) == 1, standby.said()
        assert "has taken the batch over" not in owner.said()
        assert_promise_kept(standby, api)


@pytest.mark.parametrize("seconds", [2.0, pytest.param(120.0, marks=pytest.mark.long)])
def test_a_store_that_is_gone_stops_starts_and_nothing_else(tmp_path, api, store, seconds):
    """For owner and standby alike: once it is back, one of them finishes the batch."""
    if not store.port:
        pytest.skip("a directory that is gone has a test of its own")
    with proxy_to(store.port) as proxy:
        ends = tmp_path / "ends"
        machines = Machines(tmp_path, api, store, _held_jobs(24, ends))
        owner, process = machines.new(proxy=proxy)
        wait_until(lambda: len(api.runs()) == SLOTS)
        standby, waiting = machines.new(proxy=proxy)
        wait_until(lambda: "carries the batch out" in standby.said())
        proxy.cut("both")
        ends.touch()  # from now on there are free slots
        time.sleep(seconds)  # the length of the outage, which is what is tested
        wait_until(lambda: all(run["status"] == "SUCCEEDED" for run in api.runs()))
        assert len(api.runs()) == SLOTS
        proxy.heal()
        codes = {process.wait(PROCESS_LIMIT_S), waiting.wait(PROCESS_LIMIT_S)}
        assert codes in ({0}, {0, 6}), (owner.said(), standby.said())
        assert_promise_kept(standby, api)


@pytest.mark.long
def test_a_cluster_whose_leader_dies_goes_on(tmp_path, api):
    """NATS of three: the others elect a leader, and lose nothing that was acknowledged."""
    with log_stores.nats(tmp_path / "logs", servers=3) as store:
        ends = tmp_path / "ends"
        machines = Machines(tmp_path, api, store, _held_jobs(100, ends))
        owner, process = machines.new()
        wait_until(lambda: len(api.runs()) == SLOTS)
        standby, waiting = machines.new()
        wait_until(lambda: "carries the batch out" in standby.said())
        store.servers[log_stores.leader_of(store, tmp_path.name)].kill()
        ends.touch()
        codes = {process.wait(PROCESS_LIMIT_S), waiting.wait(PROCESS_LIMIT_S)}
        assert codes in ({0}, {0, 6}), (owner.said(), standby.said())
        assert_promise_kept(standby, api)


def test_a_log_that_is_gone_for_a_while_stops_starts_and_nothing_else(tmp_path, api):
    """Live Runs are followed; once it is back, the batch goes on, in the same process."""
    with log_stores.directory(tmp_path / "logs") as store:
        ends = tmp_path / "ends"
        machines = Machines(tmp_path, api, store, _held_jobs(24, ends))
        owner, process = machines.new()
        wait_until(lambda: len(api.runs()) == SLOTS)
        log = tmp_path / "logs" / tmp_path.name
        log.rename(tmp_path / "away")
        ends.touch()
        wait_until(lambda: "the shared log cannot be reached" in owner.said())
        wait_until(lambda: all(run["status"] == "SUCCEEDED" for run in api.runs()))
        assert len(api.runs()) == SLOTS
        assert process.poll() is None
        (tmp_path / "away").rename(log)
        assert process.wait(PROCESS_LIMIT_S) == 0, owner.said()
        assert_promise_kept(owner, api)


def test_a_machine_that_leaves_hands_the_batch_over_at_once(tmp_path, api, store):
    """Without 1.5 leases of silence, which are longer here than the successor is waited for."""
    ends = tmp_path / "ends"
    machines = Machines(
        tmp_path, api, store, _held_jobs(20, ends), **{"replica.lease_s": 600, "limits.start_horizon_s": 700}
    )
    owner, process = machines.new()
    # No start is under way then, whose Run would be looked for until the horizon.
    wait_until(lambda: len(api.runs()) == SLOTS)
    process.send_signal(signal.SIGHUP)
    assert process.wait(PROCESS_LIMIT_S) == 130, owner.said()
    ends.touch()
    successor, process = machines.new()
    assert process.wait(300) == 0, successor.said()
    assert_promise_kept(successor, api)


def test_a_log_can_be_read_without_batchrun(tmp_path, api):
    """With the lines that the documentation shows."""
    page = resources.files("batchrun").joinpath("docs", "more-than-one-machine.md").read_text("utf-8")
    reader: dict[str, Any] = {}
    exec(textwrap.dedent(page[page.index("    import json") :]), reader)
    with log_stores.directory(tmp_path / "logs") as store:
        machines = Machines(tmp_path, api, store, some_jobs(20))
        owner, process = machines.new()
        assert process.wait(PROCESS_LIMIT_S) == 1, owner.said()
    assert reader["read_records"](tmp_path / "logs" / tmp_path.name) == owner.records()
