import resource
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from batchrun.cli.status_command import _status_lines
from batchrun.errors import DamagedLedger, LedgerError
from batchrun.ledger import facts
from batchrun.ledger.facts import (
    ABORTED,
    ACCOUNT,
    COMMAND,
    CONFIG,
    DUPLICATES,
    ECHO,
    IDENTITY,
    JOB_COUNT,
    JOB_FILE_IS_COPIED,
    LOG_CLAIM,
    LOG_POSITION,
    NOTIFIED,
    PINNED_BUILD,
    READ_TO,
    REPAIRING,
    RETRIED,
    RETRIES,
    SECRETS,
    SIGNATURE,
    START_COMMITS,
    TASK_AS_OPENED,
    TASK_ID,
    TRIPS,
    UNITED,
    UNLISTED_SINCE,
    WAIT,
    WATCHED_S,
    Fact,
    PinnedBuild,
)
from batchrun.ledger.protocol import FinalCost, NotedWait, Notified, OpenJob, ReadTo, Settlement
from batchrun.ledger.shared_commits import LogClaim, LogPosition
from batchrun.ledger.sqlite.reader import is_begun, open_for_reading
from batchrun.ledger.sqlite.schema_version import SCHEMA_STEPS
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger, open_tables
from batchrun.model import (
    RUN_UNREADABLE,
    Attempt,
    AttemptState,
    Cause,
    Command,
    CostSource,
    Intent,
    JobId,
    JobKey,
    Mark,
    Outcome,
    Problem,
    Run,
    RunId,
    RunStatus,
    Selection,
    TaskId,
)
from batchrun.output.layout import LEDGER
from batchrun.output.lock import locked
from batchrun.policy.breaker import Trip
from batchrun.policy.secret_fields import SecretFields
from batchrun.report.batch_status import status_of
from tests.support.memory_ledger import make_bad_line, make_job
from tests.support.timed_ledger import make_ended, make_run


def carry_out(ledger: LedgerTables, line: int, run: Run, *, reserved_usd: float | None = 1.0) -> JobId:
    """Admit a job and carry out its Run; the job stays open."""
    job_id = admitted(ledger, line).id
    ledger.intend(job_id, Intent(attempt_no=1, mark=Mark(f"m{line}"), reserved_usd=reserved_usd))
    ledger.bind(job_id, 1, run)
    ledger.postpone(job_id, make_ended(run), 0)
    return job_id


def admitted(ledger: LedgerTables, line: int = 1) -> OpenJob:
    """Admit a new job."""
    noted = ledger.admit(make_job(line))
    assert isinstance(noted, OpenJob)
    return noted


def test_committed_rows_are_there_when_the_ledger_is_opened_again(tmp_path: Path) -> None:
    """An open job is as it was, with its attempts in order."""
    with open_ledger(tmp_path) as ledger, ledger.transaction():
        noted = admitted(ledger)
        ledger.intend(noted.id, Intent(attempt_no=1, mark=Mark("m1")))
        ledger.bind(noted.id, 1, make_run())
        ended = make_ended(make_run(status=RunStatus.FAILED), cause=Cause.OUT_OF_MEMORY, memory_mb=512)
        ledger.postpone(noted.id, ended, 0)
        ledger.intend(noted.id, Intent(attempt_no=2, mark=Mark("m2")))
        ledger.bind(noted.id, 2, make_run("r2"))
        ledger.note_items(noted.id, 2, 20, 18)
    with open_for_reading(tmp_path) as reader:
        (job,) = reader.open_jobs()
    first, second = job.attempts
    assert (job.id, job.key, job.digest, job.position, job.round) == (
        noted.id, noted.key, noted.digest, make_job().position, 1,
    )  # fmt: skip
    assert first == replace(
        make_ended(make_run(status=RunStatus.FAILED), cause=Cause.OUT_OF_MEMORY, memory_mb=512),
        mark=Mark("m1"),
        intended_at=first.intended_at,
    )
    assert (second.state, second.run_id, second.items_offset, second.items_count) == (
        AttemptState.BOUND, "r2", 20, 18,
    )  # fmt: skip


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Neither rows nor the count of jobs: the next job takes the same number."""
    with open_ledger(tmp_path) as ledger:
        with pytest.raises(LedgerError, match="UNIQUE constraint failed"), ledger.transaction():  # noqa: PT012
            job_id = admitted(ledger, 1).id
            admitted(ledger, 2)
            ledger.intend(job_id, Intent(attempt_no=1, mark=Mark("a")))
            ledger.intend(job_id, Intent(attempt_no=1, mark=Mark("a")))
        assert (ledger.is_empty, ledger.open_jobs()) == (True, [])
        with ledger.transaction():
            assert admitted(ledger, 3).id == JobId(1)


def test_only_an_attempt_in_doubt_can_be_denied(tmp_path: Path) -> None:
    """It ends without a Run and its job stays open. An attempt with a Run cannot be denied."""
    with open_ledger(tmp_path) as ledger:
        with ledger.transaction():
            job_id = admitted(ledger).id
            ledger.intend(job_id, Intent(attempt_no=1, mark=Mark("a")))
            ledger.deny(job_id, 1)
            ledger.intend(job_id, Intent(attempt_no=2, mark=Mark("b")))
            ledger.bind(job_id, 2, make_run())
        with pytest.raises(LedgerError), ledger.transaction():
            ledger.deny(job_id, 2)
        (job,) = ledger.open_jobs()
    assert [(each.state, each.run_id) for each in job.attempts] == [("ended", None), ("bound", "r1")]


def test_totals_count_known_and_unknown_costs(tmp_path: Path) -> None:
    """An unknown cost is not counted as 0; a job without a Run has no cost."""
    settlements = [
        Settlement(outcome=Outcome.SUCCEEDED, items_count=3),
        Settlement(outcome=Outcome.SUCCEEDED, items_count=0),
        Settlement(outcome=Outcome.FAILED, items_count=2),
        Settlement(outcome=Outcome.REJECTED),
        Settlement(outcome=Outcome.INVALID),
    ]
    costs = {1: 0.1, 2: 0.2, 3: None}
    with open_ledger(tmp_path) as ledger:
        with ledger.transaction():
            for line, settlement in enumerate(settlements, 1):
                is_run = line in costs
                run = make_run(f"r{line}", cost_usd=costs.get(line))
                job_id = carry_out(ledger, line, run) if is_run else admitted(ledger, line).id
                ledger.settle(job_id, None, settlement)
            live = admitted(ledger, 9)
            ledger.intend(live.id, Intent(attempt_no=1, mark=Mark("m")))
            admitted(ledger, 10)
        totals = ledger.totals()
    assert (totals.items, totals.empty_successes, round(totals.cost_usd, 9), totals.unknown_costs) == (5, 1, 0.3, 1)
    assert (totals.open_jobs, totals.live_runs, totals.in_doubt, totals.open_costs) == (2, 0, 1, 3)


def test_money_counts_open_runs_and_what_runs_cost_beyond_their_reservations(tmp_path: Path) -> None:
    """Also of Runs that were started without a budget; an attempt that started nothing counts nowhere."""
    with open_ledger(tmp_path) as ledger:
        with ledger.transaction():
            for line, (reserved_usd, cost_usd) in enumerate([(0.1, 0.4), (0.1, 0.05), (None, 7.0), (0.2, None)], 1):
                run = make_run(f"r{line}", cost_usd=cost_usd)
                carry_out(ledger, line, run, reserved_usd=reserved_usd)
            known = FinalCost(job_id=JobId(1), attempt_no=1, cost_usd=0.5, source=CostSource.PLATFORM)
            unknown = FinalCost(job_id=JobId(4), attempt_no=1, cost_usd=None, source=CostSource.UNKNOWN)
            ledger.note_final_costs([known, unknown])
            ledger.intend(admitted(ledger, 5).id, Intent(attempt_no=1, mark=Mark("m"), reserved_usd=0.25))
        money = ledger.money()
    assert (money.spent_usd, money.reserved_usd) == pytest.approx((0.5 + 0.2, 0.1 + 7.0 + 0.25))
    assert (money.open_runs, money.known_costs, round(money.most_excess_usd, 9)) == (3, 1, 0.4)


#: Each fact, as the version before `facts.py` has written it.
OLD_FACTS: list[tuple[Fact[Any], str, Any]] = [
    (READ_TO, "[400,4,\"66\"]", ReadTo(offset=400, line=4, fingerprint=b"f")),
    (DUPLICATES, "7", 7),
    (ECHO, "true", True),
    (WATCHED_S, '{"m":40.5}', {Mark("m"): 40.5}),
    (UNLISTED_SINCE, '"2026-01-02T00:00:00+00:00"', datetime(2026, 1, 2, tzinfo=UTC)),
    (IDENTITY, '{"task":"t","jobs.file":"jobs.jsonl","input":null}',
     {"task": "t", "jobs.file": "jobs.jsonl", "input": None}),
    (TASK_ID, '"t"', TaskId("t")),
    (ACCOUNT, '"U1"', "U1"),
    (CONFIG, '{"limits":{"budget_usd":1.5}}', {"limits": {"budget_usd": 1.5}}),
    (SIGNATURE, '"5e"', "5e"),
    (COMMAND, '{"line":"batchrun run x","directory":"/d"}', Command(line="batchrun run x", directory="/d")),
    (JOB_COUNT, "null", None),
    (JOB_FILE_IS_COPIED, "true", True),
    (TRIPS, '[{"reason":"half failed","group":null,"keys":["a","b"],"is_for_empty":true}]',
     [Trip(reason="half failed", group=None, keys=(JobKey("a"), JobKey("b")), is_for_empty=True)]),
    (WAIT, '{"pid":7,"began_at":"2026-01-02T00:00:00+00:00","noted_at":"2026-01-03T00:00:00+00:00","reasons":[]}',
     NotedWait(pid=7, began_at=datetime(2026, 1, 2, tzinfo=UTC), noted_at=datetime(2026, 1, 3, tzinfo=UTC),
               reasons=[])),
    (NOTIFIED, '{"id":"n","events":["began"],"has_ended":false,"quiet_runs":[]}',
     Notified(id="n", events=["began"], quiet_runs=[])),
    (SECRETS, '[["login","*","word"]]', SecretFields((("login", "*", "word"),))),
    (PINNED_BUILD, '{"asked":null,"number":"0.1.2"}', PinnedBuild(asked=None, number="0.1.2")),
    (TASK_AS_OPENED, '{"modified_at":"2026","input":"h"}', {"modified_at": "2026", "input": "h"}),
    (START_COMMITS, "7", 7),
    (RETRIED, '"r1"', "r1"),
    (RETRIES, '["r0","r1"]', ["r0", "r1"]),
    (ABORTED, '["r1","r2"]', ["r1", "r2"]),
    (REPAIRING, '"items.jsonl"', "items.jsonl"),
    (LOG_POSITION, '{"entry":7,"digest":"ab"}', LogPosition(entry=7, digest="ab")),
    (LOG_CLAIM, '{"owner_id":"o","host":"h"}', LogClaim(owner_id="o", host="h")),
    (UNITED, '{"shop-1":{"records.jsonl":7}}', {"shop-1": {"records.jsonl": 7}}),
]  # fmt: skip


def test_facts_keep_the_names_and_the_json_of_older_ledgers(tmp_path: Path) -> None:
    """Otherwise data directories of the version before would not resume."""
    assert [fact for fact, _, _ in OLD_FACTS] == [each for each in vars(facts).values() if isinstance(each, Fact)]
    with open_tables(tmp_path) as ledger:
        ledger._db.executemany("INSERT INTO batch VALUES (?, ?)", [(fact.name, text) for fact, text, _ in OLD_FACTS])
        before = ledger._db.execute("SELECT * FROM batch").fetchall()
        assert [ledger.fact(fact) for fact, _, _ in OLD_FACTS] == [value for _, _, value in OLD_FACTS]
        with ledger.transaction():
            for fact, _, value in OLD_FACTS:
                ledger.note_fact(fact, value)
        assert ledger._db.execute("SELECT * FROM batch").fetchall() == before


def test_a_trip_without_a_kind_was_one_for_failures(tmp_path: Path) -> None:
    """The first versions did not note the kind."""
    with open_ledger(tmp_path) as ledger:
        noted = '[{"reason":"r","group":"g","keys":[]}]'
        ledger._db.execute("INSERT INTO batch VALUES ('tripped', ?)", (noted,))
        assert ledger.fact(TRIPS) == [Trip(reason="r", group="g", keys=())]


def test_the_status_of_a_batch_that_read_no_line_claims_nothing_about_its_jobs(tmp_path: Path) -> None:
    """Its opening failed, or is under way."""
    with open_ledger(tmp_path) as ledger:
        assert "jobs     no job settled; the job file is not read yet" in _status_lines(status_of(ledger, tmp_path))


def test_a_start_is_in_doubt_once_no_process_waits_for_its_answer(tmp_path: Path) -> None:
    """While one runs the batch, a young start is under way, unless the platform is asked for its Run already."""
    with locked(tmp_path), open_ledger(tmp_path) as ledger:
        with ledger.transaction():
            jobs = [admitted(ledger, line) for line in (1, 2, 3)]
            for job, mark in zip(jobs, "abc", strict=True):
                ledger.intend(job.id, Intent(attempt_no=1, mark=Mark(mark)))
            ledger.note_fact(WATCHED_S, {Mark("a"): 3.0})
            long_ago = (datetime.now(UTC) - timedelta(seconds=61)).timestamp()
            ledger._db.execute("UPDATE attempt SET intended_at = ? WHERE mark = 'b'", (long_ago,))
        found = status_of(ledger, tmp_path)
        assert "runs     0 live, 1 start under way, 2 starts in doubt, 0 jobs waiting" in _status_lines(found)
    found = replace(found, pid=None, lost_answers=3)
    assert "runs     0 live when last seen, 3 starts in doubt, 0 jobs waiting" in _status_lines(found)


def test_given_up_runs_are_shown_until_they_are_aborted(tmp_path: Path) -> None:
    """They may be live although their jobs are settled; they are not among the live Runs."""
    with open_ledger(tmp_path) as ledger:
        with ledger.transaction():
            for line, error_type in enumerate((RUN_UNREADABLE, RUN_UNREADABLE, "run-failed", None), 1):
                job_id = admitted(ledger, line).id
                ledger.intend(job_id, Intent(attempt_no=1, mark=Mark(f"m{line}")))
                ledger.bind(job_id, 1, make_run(f"r{line}"))
                ended = make_ended(make_run(f"r{line}"), mark=Mark(f"m{line}")) if error_type == "run-failed" else None
                if error_type is not None:
                    ledger.settle(job_id, ended, Settlement(outcome=Outcome.TIMED_OUT, error_type=error_type))
        found = status_of(ledger, tmp_path)
        assert (found.summary.given_up_runs, found.summary.live_runs) == (2, 1)
        assert any(line.startswith("given up 2 Runs that could not be followed") for line in _status_lines(found))
        with ledger.transaction():
            ledger.note_fact(ABORTED, [RunId("r1"), RunId("r4")])
        found = status_of(ledger, tmp_path)
        assert (found.summary.given_up_runs, found.summary.live_runs) == (1, 0)


@pytest.mark.parametrize(("version", "why"), [(1000, "was written by a newer batchrun"), (3, "too old for this")])
def test_a_ledger_of_another_time_is_refused_and_not_touched(tmp_path: Path, version: int, why: str) -> None:
    """Its version stays as it is."""
    with open_ledger(tmp_path):
        pass
    with sqlite3.connect(tmp_path / LEDGER) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(LedgerError, match=why), open_ledger(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / LEDGER)
    assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    connection.close()


def test_an_older_ledger_is_not_read_and_the_command_that_updates_it_is_shown(tmp_path: Path) -> None:
    """`batchrun repair` starts nothing, unlike `run`."""
    with open_ledger(tmp_path):
        pass
    with sqlite3.connect(tmp_path / LEDGER) as connection:
        connection.execute("PRAGMA user_version = 4")
    connection.close()
    words = f"older batchrun. `batchrun repair {tmp_path}` brings it up"
    with pytest.raises(LedgerError, match=words), open_for_reading(tmp_path):
        pass


def _forged(name: str, sql: str) -> str:
    """Return what changes the text of a table or index, which SQLite reads when the file is opened again."""
    return f"PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = {sql} WHERE name = '{name}'"


@pytest.mark.parametrize(
    ("statements", "foreign"),
    [
        ("DROP TABLE job; CREATE VIEW job AS SELECT 1", "the view 'job'"),
        ("DROP TABLE job; CREATE VIEW Job AS SELECT 1; PRAGMA user_version = 0", "the view 'Job'"),
        ("DROP TABLE job; CREATE VIEW job AS SELECT 1; PRAGMA user_version = 1000", "the view 'job'"),
        ("CREATE TRIGGER mine AFTER INSERT ON job BEGIN DELETE FROM attempt; END", "the trigger 'mine'"),
        ("ALTER TABLE job ADD COLUMN more TEXT GENERATED ALWAYS AS (hex(zeroblob(1000)))", "the table 'job'"),
        ("DROP TABLE batch; CREATE VIRTUAL TABLE batch USING fts5(name, value)", "the table 'batch'"),
        (
            _forged("job", "replace(sql, 'outcome TEXT', 'outcome TEXT \"--\" AS (hex(zeroblob(1000)))' || char(10))"),
            "the table 'job'",
        ),
        (_forged("open_cost", "sql || printf('%10000s', ' AND length(zeroblob(1000)) > 0')"), "the index 'open_cost'"),
        (_forged("batch", "CAST(sql || ', STRICT' AS BLOB)"), "the table 'batch'"),
    ],
)
def test_what_takes_the_place_of_a_table_is_not_read(tmp_path: Path, statements: str, foreign: str) -> None:
    """Others may have made the file: such a view can be without an end, and a trigger comes with each commit."""
    with open_ledger(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.executescript(statements)
    for opening in (open_for_reading, open_ledger):
        with pytest.raises(DamagedLedger, match=f"{foreign} in it is of another program"), opening(tmp_path):
            pass
    with pytest.raises(DamagedLedger):
        is_begun(tmp_path)


def test_a_users_own_tables_views_and_indexes_are_left_alone(tmp_path: Path) -> None:
    """Somebody may look at his batch with SQLite's own tools; a statement that asks for statistics makes tables."""
    with open_ledger(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.executescript(
            "CREATE VIEW my_failures AS SELECT key FROM job WHERE outcome = 'failed'; CREATE TABLE notes (text TEXT);"
            "CREATE INDEX by_outcome ON job (outcome); CREATE TRIGGER own AFTER INSERT ON notes BEGIN SELECT 1; END;"
            "ANALYZE"
        )
    with open_ledger(tmp_path), open_for_reading(tmp_path) as ledger:
        assert ledger.count_outcomes() == {}


def test_a_process_that_may_open_no_further_file_is_told_so(tmp_path: Path) -> None:
    """SQLite says only that it is unable to open the file."""
    with open_ledger(tmp_path):
        pass
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(LedgerError, match="Too many open files"), open_for_reading(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _make_oldest(connection: sqlite3.Connection) -> None:
    """Make the tables of the oldest version that can be brought up to date."""
    version, step = min(SCHEMA_STEPS.items())
    connection.executescript(resources.files("batchrun.ledger.sqlite").joinpath(step).read_text("utf-8"))
    connection.execute(f"PRAGMA user_version = {version}")


def test_an_older_ledger_is_brought_up_to_date(tmp_path: Path) -> None:
    """It gets the tables of a new one, keeps its rows, and still refuses two attempts with one Run."""
    old, new = tmp_path / "old", tmp_path / "new"
    for directory in (old, new):
        directory.mkdir()
    with sqlite3.connect(old / LEDGER) as connection:
        _make_oldest(connection)
        connection.execute(
            "INSERT INTO job VALUES (1, 'k', x'00', 1, 0, 0, 1, 'g', 2, 3, NULL, NULL, NULL, NULL, NULL, 4)"
        )
        connection.execute(
            "INSERT INTO attempt VALUES (1, 2, 'm', 'ended', 1, 2, 'r', 'ABORTED', 3, 4, 0.5, 6, 7, 2, 'aborted', 8, 9,"
            " 0.25, 'platform', 1, 'max-run-s', 'too long')"
        )
    connection.close()
    with open_ledger(new):
        pass
    with open_ledger(old) as ledger, ledger.transaction():
        assert ledger.attempts(JobId(1)) == [
            Attempt(
                attempt_no=2,
                round=2,
                mark=Mark("m"),
                state=AttemptState.ENDED,
                run_id=RunId("r"),
                status=RunStatus.ABORTED,
                cause=Cause.ABORTED,
                aborted_for=Problem(type="max-run-s", message="too long"),
                memory_mb=8,
                timeout_s=9,
                intended_at=datetime.fromtimestamp(1, UTC),
                platform_time=datetime.fromtimestamp(2, UTC),
                started_at=datetime.fromtimestamp(3, UTC),
                finished_at=datetime.fromtimestamp(4, UTC),
                reserved_usd=0.25,
                cost_usd=0.5,
                cost_source=CostSource.PLATFORM,
                cost_is_final=True,
                items_offset=6,
                items_count=7,
            )
        ]
        ledger.intend(JobId(1), Intent(attempt_no=3, mark=Mark("n")))
        with pytest.raises(LedgerError, match=r"answered with Run r, which .* ledger is whole"):
            ledger.bind(JobId(1), 3, make_run("r"))
    assert _tables(old) == _tables(new)


#: Messages of failures, with the exit codes and ids of failures that the version before found in them.
OLD_MESSAGES = [
    ("403 blocked (exit code 91)", 91, "165af53c"),
    ("killed (exit code -9)", -9, "cc35f392"),
    ("\n (exit code 0)", 0, "99d91c7f"),
    ("two (exit code 1) (exit code 2)", 2, "ce4d6fb9"),
    ("none", None, "f21982ae"),
    ("in the middle (exit code 3).", None, "8ba84006"),
    ("no number (exit code )", None, "e8ba2ed8"),
    ("no number (exit code -)", None, "37333a5b"),
    ("two signs (exit code --1)", None, "9c06eb47"),
    ("half a number (exit code 1-2)", None, "84ae9952"),
    ("capital (Exit code 4)", None, "5ba04751"),
    ("(exit code 5)", None, "275784a4"),
]


def test_exit_codes_are_taken_from_the_messages_of_an_older_ledger(tmp_path: Path) -> None:
    """In all rounds. Messages and ids of failures stay as they were."""
    with sqlite3.connect(tmp_path / LEDGER) as connection:
        _make_oldest(connection)
        rows = [(number, f"k{number}", message) for number, (message, _, _) in enumerate(OLD_MESSAGES, 1)]
        connection.executemany(
            'INSERT INTO job (id, key, digest, line, variant, "offset", length, round, admitted_at, settled_at,'
            " outcome, error_type, error_message) VALUES (?1, ?2, x'00', ?1, 0, 0, 1, 2, 3, 4, 'failed', 'e', ?3)",
            rows,
        )
        connection.execute(
            "INSERT INTO past_round (job_id, round, admitted_at, settled_at, outcome, error_type, error_message)"
            " SELECT id, 1, 1, 2, outcome, error_type, error_message FROM job"
        )
    connection.close()
    with open_ledger(tmp_path) as ledger:
        for number in (1, 2):
            found = [(job.settlement.error_message, job.settlement.exit_code) for job in ledger.settled_jobs(number)]
            assert found == [(message, exit_code) for message, exit_code, _ in OLD_MESSAGES]
        found_kinds = ledger.failed_jobs.kinds(Selection(), 50).kinds
        kinds = {kind.sample.settlement.error_message: kind.id for kind in found_kinds}
    assert kinds == {message: failure for message, _, failure in OLD_MESSAGES}


def _tables(directory: Path) -> dict[str, str]:
    connection = sqlite3.connect(directory / LEDGER)
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_master UNION ALL SELECT 'version', user_version FROM pragma_user_version"
    )
    tables = dict(rows)
    connection.close()
    return tables


@pytest.mark.parametrize("state", ["", "begun", "ENDED"])
def test_an_attempt_has_one_of_three_states(tmp_path: Path, state: str) -> None:
    """The schema refuses any other word."""
    with open_ledger(tmp_path) as ledger, ledger.transaction():
        ledger.intend(admitted(ledger).id, Intent(attempt_no=1, mark=Mark("a")))
    connection = sqlite3.connect(tmp_path / LEDGER)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        connection.execute("UPDATE attempt SET state = ?", (state,))
    connection.close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_ledger_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    """The message says so; the bytes are left for a person to repair."""
    file = tmp_path / LEDGER
    file.write_bytes(content)
    with pytest.raises(LedgerError, match="damaged"), open_ledger(tmp_path):
        pass
    with pytest.raises(LedgerError), open_for_reading(tmp_path):
        pass
    assert file.read_bytes() == content


def test_reading_needs_a_ledger(tmp_path: Path) -> None:
    """Reading creates no file."""
    with pytest.raises(LedgerError, match="holds no ledger"), open_for_reading(tmp_path):
        pass
    assert (is_begun(tmp_path), list(tmp_path.iterdir())) == (False, [])


def test_a_batch_is_begun_with_its_first_line(tmp_path: Path) -> None:
    """An empty ledger is not begun; one with a bad line is."""
    with open_ledger(tmp_path) as ledger:
        assert not is_begun(tmp_path)
        with ledger.transaction():
            ledger.admit_bad_line(make_bad_line(1))
        assert is_begun(tmp_path)


def test_readers_see_only_what_the_writer_has_committed(tmp_path: Path) -> None:
    """Nothing of an open transaction."""
    with open_ledger(tmp_path) as ledger, open_for_reading(tmp_path) as reader:
        with ledger.transaction():
            admitted(ledger)
            assert reader.totals().open_jobs == 0
        assert reader.totals().open_jobs == 1


@pytest.mark.parametrize("name", ["out?mode=memory", "a#b", "50%41", "ü ö"])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    """No character of it is read as part of a database URI."""
    directory = tmp_path / name
    directory.mkdir()
    with open_ledger(directory) as ledger, ledger.transaction():
        admitted(ledger)
    assert is_begun(directory)
    assert (directory / LEDGER).exists()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE job SET outcome = 'succeeden'",
        "UPDATE job SET outcome = CAST(x'ff' AS TEXT)",
        "UPDATE job SET key = CAST(x'ff' AS TEXT), outcome = NULL",
        "UPDATE attempt SET state = 'ended', cause = 'whim'",
        "UPDATE attempt SET intended_at = 1e300",
        "UPDATE batch SET value = 'no json'",
        "UPDATE batch SET value = '7'",
    ],
)
def test_what_no_version_has_written_is_damage_and_no_bug(tmp_path: Path, damage: str) -> None:
    """The message names the file and the command that rebuilds it."""
    with open_ledger(tmp_path) as ledger, ledger.transaction():
        job_id = admitted(ledger, 1).id
        attempt = ledger.intend(job_id, Intent(attempt_no=1, mark=Mark("m")))
        ledger.settle(job_id, replace(attempt, state=AttemptState.ENDED), Settlement(outcome=Outcome.FAILED))
        ledger.note_fact(READ_TO, ReadTo(offset=1, line=1, fingerprint=b""))
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection, connection:
        connection.execute(damage)

    def read_all() -> None:
        with open_for_reading(tmp_path) as reader:
            reader.fact(READ_TO)
            reader.count_outcomes()
            reader.open_jobs()
            list(reader.settled_jobs(1))
            reader.attempts(job_id)

    with pytest.raises(DamagedLedger, match=r"ledger\.sqlite3: .*Rebuild it: `batchrun repair"):
        read_all()
