from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from structlog.testing import CapturingLogger

import batchrun.engine.background.log_fetcher as module
from batchrun.engine.background.log_fetcher import DRAIN_S, LogFetcher
from batchrun.errors import BatchrunError
from batchrun.model import Attempt, AttemptState, JobKey, Mark, Outcome, Problem, Record, RunId
from batchrun.output.kept_logs import MAX_KEPT, MAX_KEPT_PER_KIND, MAX_TAIL_BYTES, KeptLogs
from tests.support.scripted_api import api_error


class Logs:
    """A platform that has a log of every Run."""

    def __init__(self) -> None:
        self.asked: list[RunId] = []
        self.errors: list[BatchrunError] = []
        self.takes_s = 1.0
        self.open = self.peak = 0

    async def get_log_tail(self, run_id: RunId, max_bytes: int) -> bytes:
        """Take a while, then answer."""
        self.asked.append(run_id)
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            await anyio.sleep(self.takes_s)
        finally:
            self.open -= 1
        if self.errors:
            raise self.errors.pop(0)
        assert max_bytes == MAX_TAIL_BYTES
        return b"the log of " + run_id.encode()


class Files(KeptLogs):
    """Log files in memory."""

    def __init__(self, *, there: int = 0, is_full: bool = False) -> None:
        super().__init__(Path("nowhere"))
        self.kept: dict[str, bytes] = {}
        self._there, self._is_full = there, is_full

    def count(self) -> int:
        """Return how many earlier processes have kept."""
        return self._there

    def write(self, run_id: RunId, tail: bytes, secrets: Collection[str]) -> None:
        """Keep one, unless the disk is full."""
        if self._is_full:
            raise OSError(28, "No space left on device")
        assert not secrets
        self.kept[run_id] = tail


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No threads on virtual time."""

    async def run_sync(function: Callable[..., object], *arguments: object) -> object:
        await anyio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(anyio.to_thread, "run_sync", run_sync)


def failed(n: int, *, outcome: Outcome = Outcome.FAILED, message: str = "no", run_id: str | None = "") -> Record:
    """Return the record of a job with one Run."""
    attempt = Attempt(
        attempt_no=1,
        mark=Mark("m"),
        state=AttemptState.ENDED,
        intended_at=datetime.now(UTC),
        run_id=RunId(run_id or f"r{n}") if run_id is not None else None,
    )
    problem = Problem(type="run-failed", message=message)
    return Record(key=JobKey(f"k{n}"), line=n, outcome=outcome, attempts=(attempt,), error=problem)


async def test_the_log_of_the_last_run_is_kept_unless_the_job_succeeded() -> None:
    """One log for each job that did not; what started no Run has none."""
    logs, files = Logs(), Files()
    fetcher = LogFetcher(logs, files)
    first = failed(1).attempts[0]
    async with fetcher.working():
        fetcher.keep(failed(2, outcome=Outcome.SUCCEEDED))
        fetcher.keep(failed(3, outcome=Outcome.REJECTED, run_id=None))
        fetcher.keep(replace(failed(4), attempts=(first, replace(first, run_id=RunId("last")))))
    assert files.kept == {"last": b"the log of last"}


async def test_a_few_are_fetched_at_once_and_nobody_waits() -> None:
    """`keep` returns at once; the end waits for what is under way."""
    logs, files = Logs(), Files()
    fetcher = LogFetcher(logs, files)
    async with fetcher.working():
        began = anyio.current_time()
        for n in range(20):
            fetcher.keep(failed(n))
        assert anyio.current_time() == began
    assert (len(files.kept), logs.peak, anyio.current_time() - began) == (20, module.FETCHERS, 5.0)


async def test_the_end_of_a_batch_does_not_wait_for_long() -> None:
    """A platform that does not answer holds it up for ten seconds."""
    logs = Logs()
    logs.takes_s = 1e9
    fetcher = LogFetcher(logs, Files())
    async with fetcher.working():
        fetcher.keep(failed(1))
        ended = anyio.current_time()
    assert anyio.current_time() - ended == DRAIN_S


async def test_a_log_that_cannot_be_had_is_given_up() -> None:
    """Refused at once, or after half a minute without an answer; no error comes out, and the next one is fetched."""
    logs, files = Logs(), Files()
    logs.errors = [api_error(404)]
    fetcher = LogFetcher(logs, files)
    async with fetcher.working():
        fetcher.keep(failed(1))
        await anyio.sleep(2)
        logs.takes_s = 1e9
        for n in range(2, 2 + module.FETCHERS):
            fetcher.keep(failed(n))
        await anyio.sleep(1)
        logs.takes_s = 1.0
        fetcher.keep(failed(9))
        await anyio.sleep(module.FETCH_TIMEOUT_S + 1)
        assert list(files.kept) == ["r9"]


async def test_a_full_disk_ends_the_keeping_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once; after that no further log is asked for."""
    said = CapturingLogger()
    monkeypatch.setattr(module, "_log", said)
    logs = Logs()
    fetcher = LogFetcher(logs, Files(is_full=True))
    async with fetcher.working():
        for n in range(10):
            fetcher.keep(failed(n))
        await anyio.sleep(5)
        fetcher.keep(failed(10))
    assert len(logs.asked) == module.FETCHERS
    assert [call.args for call in said.calls] == [("log_tails_not_written",)]


async def test_a_frequent_failure_leaves_room_for_a_rare_one() -> None:
    """So many logs of one kind, so many in all, those of earlier processes included."""
    logs, files = Logs(), Files(there=MAX_KEPT - MAX_KEPT_PER_KIND - 2)
    logs.takes_s = 0.0
    fetcher = LogFetcher(logs, files)
    async with fetcher.working():
        for n in range(200):
            fetcher.keep(failed(n))
        for message in ("a", "b", "c"):
            fetcher.keep(failed(0, message=message, run_id=message))
    assert len(files.kept) == MAX_KEPT_PER_KIND + 2
    assert {"a", "b"} < set(files.kept)
    assert "c" not in files.kept


async def test_a_batch_that_is_not_run_keeps_nothing() -> None:
    """Neither is anything waited for."""
    fetcher = LogFetcher(Logs(), Files())
    fetcher.keep(failed(1))


def test_a_log_file_is_named_by_its_run_and_by_nothing_else(tmp_path: Path) -> None:
    """What is no id cannot lead out of the directory."""
    tails = KeptLogs(tmp_path)
    for odd in ("../../etc/passwd", "a/b", "", ".", "a\0b", "x" * 200):
        assert tails.file_of(RunId(odd)) is None
        assert tails.read(RunId(odd)) is None
    assert tails.file_of(RunId("aB3-_")) == tmp_path / "logs/aB3-_.log"


def test_a_kept_log_has_no_secret(tmp_path: Path) -> None:
    """Each place where the log shows one has three asterisks."""
    tails = KeptLogs(tmp_path)
    tails.write(RunId("a"), b"login with pa\xc3\x9f, then pa\xc3\x9f again\n", ["pa\u00df"])
    assert tails.read(RunId("a")) == b"login with ***, then *** again\n"
