import math
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import orjson
import pytest
from blockbuster import BlockBuster
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import LedgerError, OutputError, Superseded
from batchrun.ledger.facts import ECHO
from batchrun.ledger.protocol import OpenJob
from batchrun.ledger.sqlite import group_commit, start_log
from batchrun.ledger.sqlite.group_commit import GroupCommit, open_commit
from batchrun.ledger.sqlite.journal import Journal, Step, _open_journal
from batchrun.ledger.sqlite.start_log import read_start_log
from batchrun.model import Attempt, BadLine, Intent, Job, JobId, Mark, Outcome, Record, RunId
from batchrun.output.layout import BAD_LINES, ITEMS, LEDGER, RECORDS, REPLACED, STARTS
from batchrun.output.sink import Sink
from tests.support.memory_ledger import make_bad_line, make_job, read_to
from tests.support.shared_logs import claim, open_log


@pytest.fixture(autouse=True)
def inline(blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and SQLite without threads and without syncing: no test here cuts the power."""
    blockbuster.deactivate()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@contextmanager
def opened(directory: Path) -> Iterator[Journal]:
    """Open a journal without a thread."""
    with ExitStack() as stack:
        yield _open_journal(stack, directory)


def record_of(line: int, outcome: Outcome = Outcome.SUCCEEDED) -> Record:
    """Return the record of the job on a line."""
    return Record(key=make_job(line).key, line=line, outcome=outcome)


def admit(journal: Journal, *entries: Job | BadLine) -> list[OpenJob]:
    """Admit lines in one group; return the new jobs."""
    step = Step(partial(journal.admit, entries, read_to(entries[-1].position.line)))
    journal.commit_group([step])
    return [noted for _, noted in step.result.jobs]


def settle(journal: Journal, job: OpenJob, item_lines: bytes = b"") -> Step[None]:
    """Return the step that settles a job."""
    return Step(partial(journal.settle, job.id, None, record_of(job.position.line), item_lines))


def intend(journal: Journal, job: OpenJob, n: int) -> Step[Attempt]:
    """Return the step that intends a job's first attempt."""
    return Step(partial(journal.intend, job.id, Intent(attempt_no=1, mark=Mark(f"m{n}"))))


def record_with_run(job: OpenJob, n: int) -> Record:
    """Return the record of a job with one Run."""
    attempt = replace(Intent(attempt_no=1, mark=Mark(f"m{n}")).noted_at(datetime.now(UTC)), run_id=RunId(f"run-{n}"))
    return replace(record_of(job.position.line), attempts=(attempt,))


def settle_with_run(journal: Journal, job: OpenJob, n: int) -> None:
    """Intend a job's attempt, and settle the job with its Run."""
    intent = intend(journal, job, n)
    journal.commit_group([intent])
    record = record_with_run(job, n)
    journal.commit_group([Step(partial(journal.settle, job.id, record.attempts[0], record, b""))])


def lines(directory: Path, name: str) -> list[Any]:
    """Return the lines of an output file."""
    return [orjson.loads(line) for line in (directory / name).read_bytes().splitlines()]


def fail() -> None:
    """Fail like SQLite on a full disk."""
    raise LedgerError("disk full")


def test_a_group_commits_records_items_and_outcomes_together(tmp_path: Path) -> None:
    """After the commit, the files have exactly the lengths in the ledger."""
    with opened(tmp_path) as journal:
        first, second = admit(journal, make_job(1), make_job(2))
        journal.commit_group([settle(journal, first, b'{"i":1}\n'), settle(journal, second)])
        lengths, outcomes = journal.ledger.output_lengths(), journal.ledger.count_outcomes()
    assert lengths == {name: (tmp_path / name).stat().st_size for name in (RECORDS, ITEMS, BAD_LINES)}
    assert ([line["key"] for line in lines(tmp_path, RECORDS)], outcomes) == (["job-1", "job-2"], {"succeeded": 2})
    assert lines(tmp_path, ITEMS) == [{"i": 1}]


def test_a_failure_in_the_middle_of_a_group_leaves_nothing_of_it(tmp_path: Path) -> None:
    """Steps before the failed one do not count, and opening the files again removes their lines."""
    with opened(tmp_path) as journal:
        first, second = admit(journal, make_job(1), make_job(2))
        journal.commit_group([settle(journal, first)])
        with pytest.raises(LedgerError):
            journal.commit_group([settle(journal, second, b"{}\n"), Step(fail)])
        assert [job.id for job in journal.ledger.open_jobs()] == [second.id]
    with opened(tmp_path) as journal:
        assert [job.id for job in journal.ledger.open_jobs()] == [second.id]
        journal.commit_group([settle(journal, second)])
    assert ([line["key"] for line in lines(tmp_path, RECORDS)], lines(tmp_path, ITEMS)) == (["job-1", "job-2"], [])


@pytest.mark.parametrize("at", ["steps", "flush", "lengths"])
def test_a_kill_within_a_commit_leaves_nothing_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Lines that were appended and not committed are cut off, even the very first ones, and the batch goes on."""

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with opened(tmp_path) as journal:
        (job,) = admit(journal, make_job(1))
        steps = [settle(journal, job, b"{}\n"), *([Step(die)] if at == "steps" else [])]
        with monkeypatch.context() as patched:
            if at == "flush":
                patched.setattr(os, "fdatasync", die)
            elif at == "lengths":
                patched.setattr(journal.ledger, "note_output_lengths", die)
            with pytest.raises(Killed):
                journal.commit_group(steps)
    with opened(tmp_path) as journal:
        assert [(tmp_path / name).read_bytes() for name in (RECORDS, ITEMS)] == [b"", b""]
        (job,) = journal.ledger.open_jobs()
        journal.commit_group([settle(journal, job)])
    assert [line["key"] for line in lines(tmp_path, RECORDS)] == ["job-1"]


def test_settling_twice_is_refused_and_writes_no_second_record(tmp_path: Path) -> None:
    """Within one group and in a later one."""
    with opened(tmp_path) as journal:
        first, second = admit(journal, make_job(1), make_job(2))
        with pytest.raises(LedgerError):
            journal.commit_group([settle(journal, first), settle(journal, first)])
    with opened(tmp_path) as journal:
        journal.commit_group([settle(journal, first)])
        with pytest.raises(LedgerError):
            journal.commit_group([settle(journal, second), settle(journal, first)])
    with opened(tmp_path):
        assert [line["key"] for line in lines(tmp_path, RECORDS)] == ["job-1"]


def test_bad_lines_are_written_to_their_file_and_as_records(tmp_path: Path) -> None:
    """Those with the key of another line, too."""
    with opened(tmp_path) as journal:
        admit(journal, make_job(1), make_job(3, key="job-1"), make_bad_line(4, "not JSON"))
    conflict = (
        "key 'job-1' stands on line 1 with other content; give this line another @key, or \"@replaces\": true if it"
        " mends that line"
    )
    assert [(line["line"], line["outcome"]) for line in lines(tmp_path, RECORDS)] == [(3, "invalid"), (4, "invalid")]
    assert lines(tmp_path, BAD_LINES) == [
        {"line": 3, "reason": conflict, "content": '{"line":3}'},
        {"line": 4, "reason": "not JSON", "content": "{"},
    ]


def test_records_without_their_ledger_are_refused_and_not_cut(tmp_path: Path) -> None:
    """No new ledger is created beside them either."""
    (tmp_path / RECORDS).write_bytes(b"{}\n")
    with (
        pytest.raises(OutputError, match=r"is missing, but records\.jsonl beside it .*batchrun repair"),
        opened(tmp_path),
    ):
        pass
    assert ((tmp_path / RECORDS).read_bytes(), (tmp_path / LEDGER).exists()) == (b"{}\n", False)


def test_items_without_their_ledger_are_refused_and_not_cut(tmp_path: Path) -> None:
    """Not at the second try either."""
    (tmp_path / ITEMS).write_bytes(b"{}\n")
    for _ in range(2):
        with pytest.raises(OutputError), opened(tmp_path):
            pass
    assert (tmp_path / ITEMS).read_bytes() == b"{}\n"


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("is_shared", [False, True])
def test_no_batch_begins_where_it_would_write_over_a_file(tmp_path: Path, name: str, is_shared: bool) -> None:
    """In a project's directory they are somebody's; once a ledger is there, they are the batch's."""
    (tmp_path / name).write_bytes(b"own")

    def begin() -> None:
        log = claim(open_log(tmp_path / "log"), tmp_path) if is_shared else None
        with ExitStack() as stack:
            _open_journal(stack, tmp_path, log)

    for _ in range(2):
        with pytest.raises(OutputError, match=rf"{name}: no ledger is beside it.* move it away"):
            begin()
    assert not (tmp_path / LEDGER).exists()
    (tmp_path / name).rename(tmp_path / "moved")
    begin()
    (tmp_path / name).write_bytes(b"the batch's")
    begin()


def test_a_ledger_that_is_older_than_its_records_is_refused(tmp_path: Path) -> None:
    """Restored from a copy, it knows nothing of a Run that was paid for since; the files stay as they are."""
    with opened(tmp_path) as journal:
        job, later = admit(journal, make_job(1), make_job(2))
        settle_with_run(journal, job, 1)
    (tmp_path / "copy").write_bytes((tmp_path / LEDGER).read_bytes())
    with opened(tmp_path) as journal:
        settle_with_run(journal, later, 2)
    (tmp_path / LEDGER).write_bytes((tmp_path / "copy").read_bytes())
    (tmp_path / STARTS).unlink()  # it would show the same
    before = (tmp_path / RECORDS).read_bytes()
    with pytest.raises(LedgerError, match=r"older than records\.jsonl .* Run run-2 of job 'job-2'"), opened(tmp_path):
        pass
    assert (tmp_path / RECORDS).read_bytes() == before


@pytest.mark.parametrize("damage", ["older", "emptied", "removed"])
def test_a_ledger_that_lacks_starts_is_refused(tmp_path: Path, damage: str) -> None:
    """No record shows them: their Runs may be live. Nothing is created or changed."""
    with opened(tmp_path) as journal:
        job, other = admit(journal, make_job(1), make_job(2))
        journal.commit_group([intend(journal, job, 1)])
    older = (tmp_path / LEDGER).read_bytes()
    with opened(tmp_path) as journal:
        journal.commit_group([intend(journal, other, 2)])
    if damage == "removed":
        (tmp_path / LEDGER).unlink()
    else:
        (tmp_path / LEDGER).write_bytes(older if damage == "older" else b"")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm"))}
    said = {"older": "is older than starts.jsonl", "emptied": "is empty, but", "removed": "is missing, but"}[damage]
    for _ in range(2):
        with pytest.raises(LedgerError, match=f"{said}.*batchrun repair"), opened(tmp_path):
            pass
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm"))}
    assert after == before


def test_a_log_of_starts_that_lags_behind_its_ledger_proves_nothing(tmp_path: Path) -> None:
    """A process may die between the commit and the log, or the power may fail; a missing log is begun again."""
    with opened(tmp_path) as journal:
        job, other, third = admit(journal, make_job(1), make_job(2), make_job(3))
        journal.commit_group([intend(journal, job, 1)])
        logged = (tmp_path / STARTS).read_bytes()
        journal.commit_group([intend(journal, other, 2)])
    (tmp_path / STARTS).write_bytes(logged[:-5])
    with opened(tmp_path) as journal:
        assert len(journal.ledger.begun_jobs()) == 2
        journal.commit_group([intend(journal, third, 3)])
    (line,) = read_start_log(tmp_path)
    assert (line.commits, [each.attempt.mark for each in line.starts]) == (3, ["m1", "m2", "m3"])


def test_the_log_of_starts_is_begun_again_before_it_grows_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the starts of open jobs; those of settled ones stand in the records."""
    monkeypatch.setattr(start_log, "MAX_BYTES", 2000)
    with opened(tmp_path) as journal:
        jobs = admit(journal, *map(make_job, range(1, 100)))
        journal.commit_group([intend(journal, jobs[0], 0)])
        for n, job in enumerate(jobs[1:], 1):
            journal.commit_group([intend(journal, job, n)])
            journal.commit_group([settle(journal, job)])
            assert (tmp_path / STARTS).stat().st_size < 2500
    noted = [each.key for line in read_start_log(tmp_path) for each in line.starts]
    assert (noted[0], noted[-1], max(line.commits for line in read_start_log(tmp_path))) == ("job-1", "job-99", 99)


@pytest.mark.parametrize("name", [RECORDS, ITEMS, BAD_LINES, LEDGER])
def test_no_start_is_noted_once_a_file_is_gone(tmp_path: Path, name: str) -> None:
    """Another process would not find it. What is live is settled in the files, wherever they are."""
    with opened(tmp_path) as journal:
        job, other = admit(journal, make_job(1), make_job(2))
        journal.commit_group([intend(journal, job, 1)])
        (tmp_path / name).rename(tmp_path / "moved")
        refused = intend(journal, other, 2)
        journal.commit_group([settle(journal, job), refused])
        assert f"{name}: was moved to {tmp_path / 'moved'} while this batch used it. Put it back" in str(
            refused.refusal
        )
    (tmp_path / "moved").replace(tmp_path / name)
    with opened(tmp_path) as journal:
        assert [(each.key, each.attempts) for each in journal.ledger.open_jobs()] == [(other.key, ())]


def test_a_record_whose_commit_did_not_happen_is_written_again(tmp_path: Path) -> None:
    """Its attempt was intended before it: what a crash left is cut off, and its job is open."""
    with opened(tmp_path) as journal:
        (job,) = admit(journal, make_job(1))
        journal.commit_group([intend(journal, job, 1)])
        with (tmp_path / RECORDS).open("ab") as file:
            file.write(record_with_run(job, 1).as_line())
    with opened(tmp_path) as journal:
        assert [each.key for each in journal.ledger.open_jobs()] == [job.key]
    assert (tmp_path / RECORDS).read_bytes() == b""


def test_a_records_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    """The message names `repair`."""
    with opened(tmp_path) as journal:
        (job,) = admit(journal, make_job(1))
        journal.commit_group([settle(journal, job)])
    (tmp_path / RECORDS).write_bytes(b"{}\n")
    with pytest.raises(OutputError, match="batchrun repair"), opened(tmp_path):
        pass
    assert (tmp_path / RECORDS).read_bytes() == b"{}\n"


def test_an_unused_journal_opens_again(tmp_path: Path) -> None:
    """Files that nothing was committed to are no obstacle."""
    for _ in range(2):
        with opened(tmp_path) as journal:
            assert journal.ledger.is_empty


_texts = st.text(st.characters(codec="ascii", categories=["L"]), max_size=30)
_groups = st.lists(st.tuples(st.lists(_texts, max_size=3), st.booleans()), min_size=1, max_size=6)


@given(processes=st.lists(st.tuples(_groups, st.floats(0, 1), st.binary(max_size=20)), min_size=1, max_size=4))
def test_files_that_are_cut_anywhere_come_back_as_committed(
    processes: list[tuple[list[tuple[list[str], bool]], float, bytes]],
) -> None:
    """Some groups fail; the tail behind the committed length is cut at any byte and followed by garbage."""
    with TemporaryDirectory() as name:
        directory, committed, line = Path(name), dict[str, bytes](), 0
        for groups, cut_at, garbage in processes:
            with opened(directory) as journal:
                for texts, is_committed in groups:
                    line += 1
                    (job,) = admit(journal, make_job(line))
                    steps = [settle(journal, job, b"".join(b'{"t":"%s"}\n' % text.encode() for text in texts))]
                    if not is_committed:
                        with pytest.raises(LedgerError):
                            journal.commit_group([*steps, Step(partial(_flush_and_fail, journal._sinks))])
                        break  # a process ends with the first group that cannot be committed
                    journal.commit_group(steps)
                lengths = journal.ledger.output_lengths()
            for each, length in lengths.items():
                content = (directory / each).read_bytes()
                assert content[: len(committed.get(each, b""))] == committed.get(each, b"")
                committed[each] = content[:length]
                kept = length + int(cut_at * (len(content) - length))
                (directory / each).write_bytes(content[:kept] + garbage)
        with opened(directory) as journal:
            settled = sum(journal.ledger.count_outcomes().values())
        assert {each: (directory / each).read_bytes() for each in committed} == committed
        assert len(committed[RECORDS].splitlines()) == settled


def _flush_and_fail(sinks: dict[str, Sink]) -> None:
    for sink in sinks.values():
        sink.flush()
    raise LedgerError("killed here")


async def test_steps_that_wait_are_committed_as_one_group(tmp_path: Path) -> None:
    """A hundred intents at one moment are one commit."""
    with opened(tmp_path) as journal:
        jobs = admit(journal, *[make_job(line) for line in range(1, 101)])
        before = journal.groups
        async with open_commit(journal, in_thread=False) as commit, anyio.create_task_group() as children:
            for job in jobs:
                children.start_soon(commit.intend, job.id, Intent(attempt_no=1, mark=Mark("m")))
        assert (journal.groups - before, sum(len(j.attempts) for j in journal.ledger.open_jobs())) == (1, 100)


@pytest.fixture
def slow_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each commit seem to take ten seconds, although it takes no time of the loop's clock."""
    monkeypatch.setattr(group_commit, "perf_counter", partial(next, count(0.0, 10.0)))


async def test_with_a_shared_log_the_steps_of_those_who_were_woken_are_gathered(
    tmp_path: Path, slow_commits: None
) -> None:
    """Half as many as the last commit had are enough; otherwise it is 0.1 s, also for notes in passing."""
    committed: list[tuple[float, int]] = []

    class Counting(Journal):
        def commit_group(self, steps: Sequence[Step[Any]]) -> None:
            super().commit_group(steps)
            committed.append((round(anyio.current_time() - began_at, 3), len(steps)))

    with ExitStack() as stack:
        log = claim(open_log(tmp_path / "log"), tmp_path / "out")
        journal = _open_journal(stack, tmp_path / "out", log)
        jobs = admit(journal, *[make_job(line) for line in range(1, 13)])
        counting = Counting(tmp_path / "out", journal.ledger, journal._sinks)
        stack.callback(counting.close)
        commit = GroupCommit(counting, in_thread=False)
        intents = (partial(commit.intend, job.id, Intent(attempt_no=1, mark=Mark("m"))) for job in jobs)
        async with anyio.create_task_group() as children:
            began_at = anyio.current_time()
            children.start_soon(commit.run)
            for _ in range(4):
                children.start_soon(next(intents))
            await anyio.sleep(1.0)
            commit.note_echo(True)
            children.start_soon(next(intents))
            await anyio.sleep(0.03)
            children.start_soon(next(intents))
            await anyio.sleep(0.97)
            children.start_soon(next(intents))
            await anyio.sleep(1.0)
            commit.note_echo(False)
            await anyio.sleep(1.0)
            for _ in range(4):
                children.start_soon(next(intents))
            await anyio.sleep(1.0)
            children.start_soon(next(intents))
            await anyio.sleep(0.01)
            commit.close()
    assert committed == [(0.0, 4), (1.03, 3), (2.0, 1), (3.1, 1), (4.0, 4), (5.01, 1)]


@pytest.mark.parametrize(("is_shared", "slow_commit_s"), [(True, 0.0), (True, math.inf), (False, 0.0)])
async def test_a_slow_commit_of_a_shared_log_wakes_a_few_children_per_turn_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool, slow_commit_s: float
) -> None:
    """Their requests and answers overlap with the next commit. Otherwise all are woken at once."""
    monkeypatch.setattr(group_commit, "SLOW_COMMIT_S", slow_commit_s)
    turn = 0
    woken_in: Counter[int] = Counter()

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await anyio.lowlevel.checkpoint()

    async def intend_one(commit: GroupCommit, job: OpenJob) -> None:
        await commit.intend(job.id, Intent(attempt_no=1, mark=Mark("m")))
        woken_in[turn] += 1

    most = group_commit.WOKEN_AT_ONCE
    with ExitStack() as stack:
        log = claim(open_log(tmp_path / "log"), tmp_path / "out") if is_shared else None
        journal = _open_journal(stack, tmp_path / "out" if is_shared else tmp_path, log)
        jobs = admit(journal, *[make_job(line) for line in range(1, 3 * most)])
        async with anyio.create_task_group() as counting:
            counting.start_soon(count_turns)
            async with open_commit(journal, in_thread=False) as commit, anyio.create_task_group() as children:
                for job in jobs:
                    children.start_soon(intend_one, commit, job)
            counting.cancel_scope.cancel()
    assert sorted(woken_in.values()) == ([most - 1, most, most] if is_shared and not slow_commit_s else [3 * most - 1])


async def _in_shield(verb: Callable[..., Awaitable[None]], *args: object) -> None:
    with anyio.CancelScope(shield=True):
        await verb(*args)


async def test_a_commit_that_fails_while_children_are_woken_leaves_none_of_them_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is durable counts for each of those who wait for it; only what the failed commit had does not."""
    monkeypatch.setattr(group_commit, "SLOW_COMMIT_S", 0.0)
    durable = list[JobId]()

    class FailingLater(Journal):
        def commit_group(self, steps: Sequence[Step[Any]]) -> None:
            if durable:
                raise LedgerError("the disk is full")
            super().commit_group(steps)

    async def intend_then_close(commit: GroupCommit, job: OpenJob) -> None:
        await commit.intend(job.id, Intent(attempt_no=1, mark=Mark("m")))
        durable.append(job.id)
        if len(durable) == 1:
            commit.note_echo(True)
            commit.close()

    with ExitStack() as stack:
        journal = _open_journal(stack, tmp_path / "out", claim(open_log(tmp_path / "log"), tmp_path / "out"))
        jobs = admit(journal, *[make_job(line) for line in range(1, 3 * group_commit.WOKEN_AT_ONCE)])
        failing = FailingLater(tmp_path / "out", journal.ledger, journal._sinks)
        stack.callback(failing.close)
        commit = GroupCommit(failing, in_thread=False)
        with pytest.raises(ExceptionGroup, match="unhandled"):  # noqa: PT012 - by the committing child
            async with anyio.create_task_group() as children:
                for job in jobs:
                    children.start_soon(partial(_in_shield, intend_then_close), commit, job)
                children.start_soon(commit.run)
        assert durable == [job.id for job in jobs]


async def test_without_a_shared_log_no_step_waits_for_another(tmp_path: Path, slow_commits: None) -> None:
    """A commit on this machine's disk takes a few milliseconds."""
    with opened(tmp_path) as journal:
        jobs = admit(journal, *[make_job(line) for line in range(1, 6)])
        async with open_commit(journal, in_thread=False) as commit:
            async with anyio.create_task_group() as children:
                for job in jobs[:4]:
                    children.start_soon(commit.intend, job.id, Intent(attempt_no=1, mark=Mark("m")))
            began_at = anyio.current_time()
            await commit.intend(jobs[4].id, Intent(attempt_no=1, mark=Mark("m")))
            assert anyio.current_time() == began_at


async def test_an_awaited_step_is_durable(tmp_path: Path) -> None:
    """When `intend` returns, the row is committed."""
    with opened(tmp_path) as journal:
        (job,) = admit(journal, make_job(1))
        async with open_commit(journal, in_thread=False) as commit:
            attempt = await commit.intend(job.id, Intent(attempt_no=1, mark=Mark("m")))
            assert not journal.ledger._db.in_transaction
            assert journal.ledger.attempts(job.id) == [attempt]


async def test_closing_makes_durable_what_was_not_awaited(tmp_path: Path) -> None:
    """Even if the context is cancelled: what was paid for is noted."""
    with opened(tmp_path) as journal:
        (job,) = admit(journal, make_job(1))
        with anyio.CancelScope() as scope:
            async with open_commit(journal, in_thread=False) as commit:
                commit.note_echo(True)
                commit.postpone(job.id, None, 60)
                scope.cancel()
        assert (journal.ledger.fact(ECHO), journal.ledger.open_jobs()[0].due_at is not None) == (True, True)


async def test_a_failed_commit_fails_every_step_that_waits_for_it(tmp_path: Path) -> None:
    """No step is taken for done, and the batch stops."""
    with opened(tmp_path) as journal:
        (job,) = admit(journal, make_job(1))
        heard = list[str]()

        async def wait(commit: GroupCommit, job_id: JobId) -> None:
            try:
                await commit.settle(job_id, None, record_of(1), b"")
            except OutputError as error:
                heard.append(type(error).__name__)
                raise

        with pytest.raises(ExceptionGroup):  # noqa: PT012 - by any of them
            async with open_commit(journal, in_thread=False) as commit, anyio.create_task_group() as children:
                for _ in range(3):
                    children.start_soon(wait, commit, job.id)
        assert (len(heard) >= 1, [each.id for each in journal.ledger.open_jobs()]) == (True, [job.id])


async def test_a_superseded_commit_fails_every_step_from_then_on(tmp_path: Path) -> None:
    """Each gets the error, whatever its verb; nothing of the group counts."""

    class Overtaken(Journal):
        def commit_group(self, steps: Sequence[Step[Any]]) -> None:
            super().commit_group([*steps, Step(lose)])

    def lose() -> None:
        raise Superseded("another owner")

    with opened(tmp_path) as journal:
        (job,) = admit(journal, make_job(1))
        heard = list[str]()

        async def hear(verb: Awaitable[object]) -> None:
            try:
                await verb
            except Superseded as error:
                heard.append(str(error))

        commit = GroupCommit(Overtaken(tmp_path, journal.ledger, journal._sinks), in_thread=False)
        with pytest.raises(ExceptionGroup, match="unhandled"):  # noqa: PT012 - by the committing child
            async with anyio.create_task_group() as children:
                children.start_soon(hear, commit.intend(job.id, Intent(attempt_no=1, mark=Mark("m"))))
                children.start_soon(hear, commit.known_runs([]))
                commit.postpone(job.id, None, 60)
                await anyio.wait_all_tasks_blocked()
                children.start_soon(commit.run)
        await hear(commit.bound_runs())
        assert (heard, journal.ledger.begun_jobs()) == (["another owner"] * 3, [])


async def test_a_bug_in_a_step_is_not_taken_for_success(tmp_path: Path) -> None:
    """No error of any kind lets a step that waits return."""
    with opened(tmp_path) as journal:
        (job,) = admit(journal, make_job(1))
        believed = list[int]()
        unwritable = Record(key=None, line=1, outcome=Outcome.SUCCEEDED, meta=object())
        with pytest.raises(ExceptionGroup):  # noqa: PT012 - what comes after must not happen
            async with open_commit(journal, in_thread=False) as commit:
                await commit.settle(job.id, None, unwritable, b"")
                believed.append(1)
        assert believed == []


async def test_groups_are_committed_one_after_another(tmp_path: Path) -> None:
    """No step is forgotten after a pause."""
    with opened(tmp_path) as journal:
        (job,) = admit(journal, make_job(1))
        async with open_commit(journal, in_thread=False) as commit:
            for n in range(1, 6):
                await commit.intend(job.id, Intent(attempt_no=n, mark=Mark(f"m{n}")))
                await anyio.sleep(10)
        assert len(journal.ledger.attempts(job.id)) == 5
