"""One directory of the directories of a batch's parts, united again and again while they grow."""

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from batchrun.errors import OutputError
from batchrun.ledger.facts import DUPLICATES, JOB_COUNT
from batchrun.ledger.sqlite import united_ledger
from batchrun.ledger.sqlite.journal import Step, _open_journal
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.ledger.sqlite.tables import open_writable
from batchrun.ledger.sqlite.united_ledger import refuse_another_batch, unite_directories
from batchrun.model import Intent, JobKey, Mark, Outcome, Record, Run, RunId, RunStatus, Selection
from batchrun.output.layout import COSTS, ITEMS, RECORDS
from tests.support.memory_ledger import make_job, read_to


@pytest.fixture(autouse=True)
def _without_syncs(blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch) -> None:
    blockbuster.deactivate()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


def settle_some(part: Path, lines: range, *, retries: bool = False) -> None:
    """Admit and settle the jobs of some lines, each with a Run and an item, as the process of a part does."""
    part.mkdir(exist_ok=True)
    with ExitStack() as stack:
        journal = _open_journal(stack, part)
        admission = []

        def admit() -> None:
            jobs = [make_job(line) for line in lines]
            again = make_job(100 + lines[0], key=jobs[0].key, body=jobs[0].body)
            admission.extend(journal.admit([*jobs, again], read_to(lines[-1])).jobs)
            journal.ledger.note_fact(JOB_COUNT, 7)

        journal.commit_group([Step(admit)])
        for job, noted in admission:
            line, run_id = job.position.line, RunId(f"run-{job.position.line}")
            intent = Intent(attempt_no=1, round=1, mark=Mark(f"m{line}"))
            journal.commit_group([Step(partial(journal.intend, noted.id, intent))])
            run = Run(
                id=run_id, status=RunStatus.SUCCEEDED, dataset_id=None, store_id=None, started_at=None,
                finished_at=None, cost_usd=None, user_agent=None, fields={},
            )  # fmt: skip
            journal.commit_group([Step(partial(journal.ledger.bind, noted.id, 1, run))])
            record = Record(key=job.key, line=line, outcome=Outcome.SUCCEEDED)
            journal.commit_group([Step(partial(journal.settle, noted.id, None, record, b'{"line":%d}\n' % line))])
        if retries:
            with journal.ledger.transaction():
                journal.ledger.reopen(Selection(keys=[JobKey(f"job-{lines[0]}")], outcomes=[Outcome.SUCCEEDED]))


def test_the_whole_has_what_its_parts_have(tmp_path: Path) -> None:
    """Rows and lines of all parts, once each; what a reader has read of a file stays where it is."""
    parts = {name: tmp_path / name for name in ("one", "two")}
    whole = tmp_path / "whole"
    whole.mkdir()
    settle_some(parts["one"], range(1, 4))
    settle_some(parts["two"], range(4, 6))
    unite_directories(parts, whole)
    before = {name: (whole / name).read_bytes() for name in (RECORDS, ITEMS)}
    settle_some(parts["one"], range(6, 9), retries=True)
    for _ in range(2):
        unite_directories(parts, whole)
        after = {name: (whole / name).read_bytes() for name in (RECORDS, ITEMS)}
        assert all(after[name].startswith(before[name]) for name in before)
        assert sorted(after[ITEMS].splitlines()) == [b'{"line":%d}' % line for line in range(1, 9)]
        with open_for_reading(whole) as ledger:
            assert ledger.count_outcomes() == {Outcome.SUCCEEDED: 7}
            assert ([job.key for job in ledger.open_jobs()], ledger.totals().open_jobs) == (["job-6"], 1)
            assert (ledger.fact(JOB_COUNT), ledger.fact(DUPLICATES)) == (14, 3)
            assert ledger.output_lengths()[RECORDS] == len(after[RECORDS])
            assert len(ledger.known_runs([RunId(f"run-{line}") for line in range(1, 10)])) == 8


def test_the_ledger_of_another_batch_is_not_replaced(tmp_path: Path) -> None:
    """Its live Runs could neither be followed nor aborted: that of a single batch, or of other parts."""
    parts = {name: tmp_path / name for name in ("one", "two")}
    whole = tmp_path / "whole"
    whole.mkdir()
    refuse_another_batch(whole, parts)
    with open_writable(whole):
        pass
    refuse_another_batch(whole, parts)
    for number, part in enumerate(parts.values()):
        settle_some(part, range(10 * number + 1, 10 * number + 3))
    unite_directories(parts, whole)
    refuse_another_batch(whole, [*parts, "three"])
    for directory, names in ((whole, ["one"]), (parts["one"], parts)):
        with pytest.raises(OutputError, match=r"holds another batch, which this one would replace"):
            refuse_another_batch(directory, names)


def test_somebodys_own_files_are_left_alone_and_hinder_nothing_once_they_are_moved(tmp_path: Path) -> None:
    """Neither is one written over, nor are the others begun beside it."""
    parts, whole = {"one": tmp_path / "one"}, tmp_path / "whole"
    whole.mkdir()
    settle_some(parts["one"], range(1, 4))
    (whole / COSTS).write_text("mine")
    with pytest.raises(OutputError, match="would write over it; move it away"):
        refuse_another_batch(whole, parts)
    (whole / COSTS).rename(whole / ITEMS)
    with pytest.raises(OutputError, match="that are in no ledger; move it away"):
        unite_directories(parts, whole)
    assert (whole / RECORDS).read_bytes() == b""
    (whole / ITEMS).unlink()
    unite_directories(parts, whole)
    assert len((whole / RECORDS).read_bytes().splitlines()) == 3


def test_what_was_written_before_a_kill_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time, too, when the ledger of the whole knows no length yet."""
    parts, whole = {"one": tmp_path / "one"}, tmp_path / "whole"
    whole.mkdir()
    settle_some(parts["one"], range(1, 4))
    with monkeypatch.context() as patched:
        patched.setattr(united_ledger, "_note_facts", _die)
        with pytest.raises(ProcessLookupError):
            unite_directories(parts, whole)
    assert (whole / RECORDS).read_bytes()
    unite_directories(parts, whole)
    assert len((whole / RECORDS).read_bytes().splitlines()) == 3


def _die(*_: object) -> None:
    raise ProcessLookupError
