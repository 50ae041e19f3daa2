from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from batchrun.ledger.protocol import Settlement
from batchrun.ledger.sqlite.queries.cost_groups import COST_COLUMNS
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.model import CostSource, Intent, JobId, JobKey, Mark, Outcome, RunStatus, Selection
from batchrun.policy.failure_cause import with_exit_code
from tests.support.memory_ledger import make_bad_line, make_job
from tests.support.timed_ledger import AT, make_ended, make_run


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[LedgerTables]:
    """A ledger of six settled jobs, an open one and a bad line."""
    with open_ledger(tmp_path) as opened, opened.transaction():
        for line in range(1, 8):
            opened.admit(make_job(line, group="ab"[line % 2]))
        opened.settle(JobId(opened.admit_bad_line(make_bad_line(9)) or 0), None, Settlement(outcome=Outcome.INVALID))
        carry(opened, 1, Outcome.SUCCEEDED, cost_usd=0.25, items_count=3)
        carry(opened, 2, Outcome.FAILED, "run-failed", "403 on page 2", cost_usd=None, items_count=2, exit_code=91)
        carry(opened, 3, Outcome.FAILED, "run-failed", "403 on page 3", cost_usd=0.5, exit_code=91)
        carry(opened, 4, Outcome.FAILED, "run-failed", "403 on page 4", exit_code=1)
        carry(opened, 5, Outcome.TIMED_OUT, "run-timed-out", "too slow")
        refused = Settlement(outcome=Outcome.REJECTED, error_type="invalid-input", error_message="no")
        opened.settle(JobId(6), None, refused)
    with open_ledger(tmp_path) as opened:
        yield opened


def carry(
    ledger: LedgerTables,
    line: int,
    outcome: Outcome,
    error_type: str | None = None,
    message: str | None = None,
    *,
    exit_code: int | None = None,
    cost_usd: float | None = 1.0,
    items_count: int = 0,
    round: int = 1,  # noqa: A002 - the ledger's own word
    **ended: Any,
) -> None:
    """Carry out the job of a line in one attempt and settle it."""
    run = make_run(f"r{line}-{round}", RunStatus.FAILED, cost_usd)
    job_id = JobId(line)
    ledger.intend(job_id, Intent(attempt_no=round, round=round, mark=Mark("m")))
    ledger.bind(job_id, round, run)
    noted = Settlement(
        outcome=outcome,
        error_type=error_type,
        error_message=with_exit_code(message, exit_code) if message is not None else None,
        exit_code=exit_code,
        items_count=items_count,
    )
    ledger.settle(job_id, make_ended(run, round, **ended), noted)


def reopened(ledger: LedgerTables, **selection: Any) -> list[int]:
    """Reopen the selected jobs; return their lines."""
    with ledger.transaction():
        count = ledger.reopen(Selection(**selection))
    lines = [job.position.line for job in ledger.open_jobs() if job.position.line != 7]
    assert len(lines) == count
    return lines


def test_a_reopened_job_keeps_its_past_rounds(ledger: LedgerTables) -> None:
    """It can be settled once more, and its attempts count on; the settlement before stays beside the new one."""
    (before,) = [job for job in ledger.settled_jobs(1) if job.key == "job-2"]
    reopened(ledger, keys=["job-2"])
    (job,) = [job for job in ledger.open_jobs() if job.key == "job-2"]
    assert (job.round, job.due_at, [each.run_id for each in job.attempts]) == (2, None, ["r2-1"])
    assert job.admitted_at > before.admitted_at
    with ledger.transaction():
        carry(ledger, 2, Outcome.SUCCEEDED, items_count=5, round=2)
    assert [job for job in ledger.settled_jobs(1) if job.key == "job-2"] == [before]
    (after,) = ledger.settled_jobs(2)
    assert (after.round, after.settlement) == (2, Settlement(outcome=Outcome.SUCCEEDED, items_count=5))
    assert (ledger.last_round(), reopened(ledger, keys=["job-2"], outcomes=[Outcome.SUCCEEDED])) == (2, [2])
    assert ledger.last_round() == 3


def test_a_record_is_found_by_key_and_round(ledger: LedgerTables) -> None:
    """An open round, or one that never was, has no record."""
    reopened(ledger, keys=["job-2"])
    key = JobKey("job-2")
    assert [ledger.settled_id(key, 2, number) for number in (1, 2, 3)] == [2, None, None]
    assert [ledger.settled_id(None, line, 1) for line in (9, 2)] == [8, None]


def test_a_failed_reopening_changes_nothing(ledger: LedgerTables) -> None:
    """No job is open, and no past round is noted."""
    before = (ledger.totals(), ledger.count_outcomes())
    with pytest.raises(ZeroDivisionError), ledger.transaction():  # noqa: PT012 - the last one fails
        ledger.reopen(Selection())
        _ = 1 / 0
    assert (ledger.totals(), ledger.count_outcomes()) == before


def test_items_and_costs_of_earlier_rounds_still_count(ledger: LedgerTables) -> None:
    """Items are counted over all rounds, like the lines of the item file; outcomes are the latest."""
    before = ledger.totals()
    reopened(ledger)
    between = ledger.totals()
    assert (between.items, between.cost_usd, between.unknown_costs) == (before.items, before.cost_usd, 1)
    assert (between.earlier_records, between.open_jobs, before.items) == (5, 6, 5)
    with ledger.transaction():
        carry(ledger, 2, Outcome.SUCCEEDED, items_count=7, round=2)
    assert (ledger.totals().items, ledger.totals().cost_usd) == (before.items + 7, before.cost_usd + 1.0)
    assert ledger.count_outcomes() == {Outcome.SUCCEEDED: 2, Outcome.INVALID: 1}


def test_forgotten_items_are_those_of_the_open_round_only(ledger: LedgerTables) -> None:
    """Items of earlier rounds stay in the file, and in the ledger."""
    with ledger.transaction():
        ledger.note_items(JobId(2), 1, 20, 20)
        ledger.reopen(Selection(keys=["job-2"]))
        ledger.intend(JobId(2), Intent(attempt_no=2, round=2, mark=Mark("m")))
        ledger.note_items(JobId(2), 2, 10, 10)
        ledger.forget_open_items()
    assert [each.items_count for each in ledger.attempts(JobId(2))] == [20, 0]


def test_failures_are_grouped_by_kind_most_frequent_first(ledger: LedgerTables) -> None:
    """Page numbers do not matter, exit codes do; an id selects exactly the jobs of its kind."""
    found = ledger.failed_jobs.kinds(Selection(), 3)
    assert [(kind.count, kind.sample.position.line) for kind in found.kinds] == [(2, 2), (1, 4), (1, 5)]
    assert (found.kinds_in_all, found.jobs_in_all) == (4, 5)
    assert reopened(ledger, failures=[found.kinds[0].id]) == [2, 3]
    unknown = ledger.failed_jobs.unknown("failures", [kind.id for kind in found.kinds])
    assert unknown == [], "those of an earlier round are known"
    assert [job.settlement.exit_code for job in ledger.settled_jobs(1)][1:4] == [91, 91, 1]


def test_without_failures_there_are_no_kinds(ledger: LedgerTables) -> None:
    """No kinds and no jobs are counted."""
    found = ledger.failed_jobs.kinds(Selection(keys=["nope"]), 3)
    assert (found.kinds, found.kinds_in_all, found.jobs_in_all) == ([], 0, 0)


def test_costs_are_summed_by_what_runs_share(ledger: LedgerTables) -> None:
    """By group, day of the end and outcome of the round; the sum of the rows is the total."""
    reopened(ledger, keys=["job-3"])
    with ledger.transaction():
        later: dict[str, Any] = {"finished_at": AT + timedelta(days=1), "cost_source": CostSource.DERIVED}
        carry(ledger, 3, Outcome.SUCCEEDED, cost_usd=0.125, round=2, **later)
    rows = {row.shared: row for row in ledger.costs.by(["outcome", "day"])}
    assert {shared: (row.runs, row.cost_usd, row.derived_usd, row.unknown_costs) for shared, row in rows.items()} == {
        ("failed", "2026-01-02"): (3, 1.5, 0.0, 1),
        ("succeeded", "2026-01-02"): (1, 0.25, 0.0, 0),
        ("succeeded", "2026-01-03"): (1, 0.125, 0.125, 0),
        ("timed_out", "2026-01-02"): (1, 1.0, 0.0, 0),
    }
    total = ledger.costs.total()
    assert (total.runs, total.cost_usd, total.open_costs) == (6, 2.875, 6)
    for by in COST_COLUMNS:
        assert sum(row.cost_usd for row in ledger.costs.by([by])) == total.cost_usd
    assert [row.shared for row in ledger.costs.by(["group"])] == [("a",), ("b",)]


def test_runs_of_an_open_round_have_no_outcome_yet(ledger: LedgerTables) -> None:
    """Their costs are counted as `open`."""
    reopened(ledger, keys=["job-3"])
    with ledger.transaction():
        run = make_run("r3-2")
        ledger.intend(JobId(3), Intent(attempt_no=2, round=2, mark=Mark("m")))
        ledger.bind(JobId(3), 2, run)
        ledger.postpone(JobId(3), make_ended(run, 2), 0)
    rows = {row.shared: row.runs for row in ledger.costs.by(["outcome"])}
    assert rows == {("failed",): 3, ("open",): 1, ("succeeded",): 1, ("timed_out",): 1}


def test_a_snapshot_is_of_one_moment(ledger: LedgerTables, tmp_path: Path) -> None:
    """It does not see what is written meanwhile."""
    with open_for_reading(tmp_path) as reader:
        with reader.snapshot():
            before = reader.count_outcomes()
            reopened(ledger)
            assert reader.count_outcomes() == before
        assert reader.count_outcomes() == {Outcome.SUCCEEDED: 1, Outcome.INVALID: 1}
