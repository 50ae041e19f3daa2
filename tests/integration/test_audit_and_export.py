"""`audit` and `export` of a batch's directory, and of its shared log."""

import csv
import io
import shutil
import sqlite3
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import orjson
import pytest

from batchrun.maintenance.audit import audit_records
from batchrun.output.layout import LEDGER
from tests.support.api_process import TOKEN
from tests.support.command_line import Said, batchrun
from tests.support.crash import Api, CrashBatch, open_api

JOBS: list[dict[str, Any]] = [{"n": n, "items": 2, "fails": n == 3, "@key": f"k{n}"} for n in range(8)]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server process for all tests here."""
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        yield opened


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, api: Api) -> CrashBatch:
    """A batch that is done, of which one job has failed; it has a shared log, too."""
    directory = tmp_path_factory.mktemp("batch")
    (directory / "log").mkdir()
    done = CrashBatch(directory, api.base_url, JOBS, {"replica.url": f"file://{directory}/log", "replica.lease_s": 1.0})
    assert done.run() == 1, done.said()
    return done


def said_of(directory: Path, *arguments: str) -> Said:
    """Run a command with the token."""
    return batchrun(*arguments, cwd=directory, environ={"APIFY_TOKEN": TOKEN})


def pulled(batch: CrashBatch, directory: Path) -> Path:
    """Return a copy of the batch's directory, to be damaged."""
    assert said_of(directory, "pull", f"file://{batch.directory}/log", "copy").code == 0
    return directory / "copy"


def test_a_batch_that_is_right_is_said_to_be(batch, api):
    """Of its directory, and of its log with the platform's address."""
    url = f"file://{batch.directory}/log"
    for place, flags in (("out", ()), (url, ("--api-url", api.base_url))):
        said = said_of(batch.directory, "audit", place, *flags)
        assert (said.code, said.out.splitlines()) == (
            0,
            [
                "records  8 of 8 settled jobs have one line in records.jsonl",
                "Runs     no Run of the task repeats a start of this batch",
            ],
        ), said
    found = orjson.loads(said_of(batch.directory, "audit", "out", "--json").out)
    assert (found["records"]["right"], found["runs"]["second_runs"], found["runs_not_listed"]) == (8, [], "")


def test_lines_that_are_missing_doubled_or_of_no_job_are_counted(batch, tmp_path):
    """What follows the committed lines counts as none."""
    copy = pulled(batch, tmp_path)
    lines = (copy / "records.jsonl").read_bytes().splitlines(keepends=True)
    changed = b"".join([lines[0], lines[0], lines[2].replace(b'"key":"k', b'"key":"z'), *lines[3:]])
    (copy / "records.jsonl").write_bytes(changed)
    with sqlite3.connect(copy / "ledger.sqlite3") as ledger:
        ledger.execute("UPDATE output SET length = ? WHERE name = 'records.jsonl'", (len(changed),))
    with (copy / "records.jsonl").open("ab") as file:
        file.write(lines[1] + b"{")
    said = said_of(tmp_path, "audit", "copy")
    assert said.code == 6
    assert "6 of 8 settled jobs" in said.out
    assert "2 missing, 1 written more than once, 1 of no settled job: `batchrun repair copy`" in said.out
    assert "not looked at: copy: has its configuration from a shared log" in said.out


def test_a_run_that_repeats_a_start_is_found(batch, api):
    """Something sent a start again after the batch was over; a Run of another client is none."""
    with sqlite3.connect(f"file:{batch.out}/ledger.sqlite3?mode=ro", uri=True) as ledger:
        mark, key, kept = ledger.execute(
            "SELECT mark, key, run_id FROM attempt JOIN job ON job.id = job_id WHERE key = 'k5'"
        ).fetchone()
    task = api.get("/actor-tasks")["data"]["items"][0]["id"]
    started = []
    for agent in (f"batchrun/0.1.0 ({mark})", "curl/8"):
        headers = {"Authorization": f"Bearer {TOKEN}", "User-Agent": agent, "Content-Type": "application/json"}
        body = orjson.dumps({"n": 5, "items": 0})
        with urlopen(Request(f"{api.base_url}/v2/actor-tasks/{task}/runs", body, headers), timeout=30) as answer:
            started.append(orjson.loads(answer.read())["data"]["id"])
    said = said_of(batch.directory, "audit", "out")
    assert said.code == 6, said
    assert "1 Run of the task repeats a start of this batch (1 Run of others)" in said.out
    assert f"{started[0]} " in said.out
    assert f"repeats the start of {key}, which has {kept}" in said.out
    assert started[1] not in said.out


def test_records_and_items_are_written_for_other_programs(batch, tmp_path):
    """By the end of the file's name; of a log, too."""
    for place in (str(batch.out), f"file://{batch.directory}/log"):
        for name in ("shop.csv", "shop.xlsx", "shop.jsonl"):
            assert said_of(tmp_path, "export", place, name).code == 0
        rows = list(csv.DictReader(io.StringIO((tmp_path / "shop.csv").read_text("utf-8-sig"))))
        assert sorted(row["key"] for row in rows) == [f"k{n}" for n in range(8)]
        assert (tmp_path / "shop.jsonl").read_bytes() == (batch.out / "records.jsonl").read_bytes()
        sheet = zipfile.ZipFile(tmp_path / "shop.xlsx").read("xl/worksheets/sheet1.xml")
        assert sheet.count(b"<row>") == 9
    assert said_of(tmp_path, "export", str(batch.out), "items.CSV", "--items").code == 0
    assert len((tmp_path / "items.CSV").read_text("utf-8-sig").splitlines()) == 1 + 8 * 2


def test_what_cannot_be_exported_says_why(batch, tmp_path):
    """Another format, a name that is too long, a directory without a batch, lines that are gone; no file is left."""
    copy = pulled(batch, tmp_path)
    (copy / "records.jsonl").write_bytes(b"")
    for arguments, code, words in (
        (("copy", "shop.pdf"), 2, ".jsonl, .csv, .xlsx"),
        (("copy", f"shop{'p' * 300}.csv"), 6, "p.csv: File name too long"),
        (("nothing", "shop.csv"), 2, "nothing: there is no such directory"),
        ((".", "shop.csv"), 6, "holds no ledger"),
        (("copy", "shop.csv"), 6, "`batchrun repair copy`"),
    ):
        said = said_of(tmp_path, "export", *arguments)
        assert (said.code, words in said.err) == (code, True), said
    assert not [*tmp_path.glob("shop*")]


@pytest.mark.parametrize("line", [b"[" * 2000 + b"]" * 2000, b"no JSON", b"7"])
def test_a_line_that_is_no_record_is_named(batch, tmp_path, line):
    """Whoever supplies a directory chooses what is in it."""
    copy = pulled(batch, tmp_path)
    size = (copy / "records.jsonl").stat().st_size
    (copy / "records.jsonl").write_bytes(line.ljust(size - 1) + b"\n")
    said = said_of(tmp_path, "export", "copy", "records.csv")
    assert (said.code, said.err) == (
        6,
        "batchrun: copy/records.jsonl: has a line that is no JSON object; `batchrun repair copy` writes it again\n",
    )
    assert not (tmp_path / "records.csv").exists()


@pytest.mark.parametrize(
    "arguments", [("export", "out", "records.csv"), ("export", "out", "r.jsonl"), ("audit", "out")]
)
def test_a_link_in_the_place_of_the_records_is_not_followed(tmp_path, batch, arguments):
    """It could lead to any file."""
    copy = pulled(batch, tmp_path).rename(tmp_path / "out")
    (copy / "records.jsonl").rename(tmp_path / "elsewhere")
    (copy / "records.jsonl").symlink_to(tmp_path / "elsewhere")
    said = said_of(tmp_path, *arguments)
    assert said.code == 6
    assert said.err.startswith("batchrun: out/records.jsonl: it is a symbolic link"), said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("export", "out", "out/records.jsonl"), "written by the batch itself"),
        (("export", "out", "jobs.jsonl"), "read by the batch itself"),
        (("export", "out", "linked.jsonl"), "read by the batch itself"),
        (("export", "out", "other/records.jsonl"), "written by another batch"),
        (("export", "out", "w/taken.jsonl"), "one of a worker's own files"),
        (("export", "out", "w/spool/shop/jobs.csv"), "one of a worker's own files"),
    ],
)
def test_no_file_of_the_batch_is_written_over(batch, arguments, why):
    """A batch that runs would stop, or its jobs be lost: an export of shop.out is easily called like its job file."""
    (batch.directory / "linked.jsonl").unlink(missing_ok=True)
    (batch.directory / "linked.jsonl").symlink_to("jobs.jsonl")
    (batch.directory / "other").mkdir(exist_ok=True)
    (batch.directory / "other" / LEDGER).touch()
    (batch.directory / "w" / "batches").mkdir(parents=True, exist_ok=True)
    (batch.directory / "w" / "token").touch()
    before = (batch.directory / "jobs.jsonl").read_bytes()
    said = said_of(batch.directory, *arguments)
    assert said.code == 2, said
    assert f"{arguments[-1]}: is {why}; choose another name" in said.err
    assert (batch.directory / "jobs.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("out", "name", "text"),
    [
        ("out", "jobs.jsonl", "another text"),  # the whole directory was moved, and the file edited since
        ("elsewhere/out", "shop.jsonl", None),  # a worker's batch: it has read a copy, of another name
    ],
)
def test_no_job_file_is_written_over_that_was_moved_or_copied(batch, tmp_path, out, name, text):
    """A ledger has the paths of files as they were when the batch was opened."""
    shutil.copytree(batch.out, tmp_path / out)
    file = tmp_path / name
    shutil.copy(batch.directory / "jobs.jsonl", file)
    file.write_text(text or file.read_text() + '{"n": 9}\n')
    before = file.read_bytes()
    said = said_of(tmp_path, "export", out, name)
    assert (said.code, f"{name}: is read by the batch itself" in said.err) == (2, True), said
    assert file.read_bytes() == before
    for _ in range(2):
        assert said_of(tmp_path, "export", out, "table.jsonl").code == 0


def test_a_report_is_written_to_an_html_file_only(batch):
    """A batch file has almost the same name."""
    before = (batch.directory / "batch.toml").read_bytes()
    said = said_of(batch.directory, "report", "out", "--out", "batch.toml")
    assert (said.code, said.err) == (
        2,
        "batchrun: batch.toml: a report is HTML; give it a name that ends with .html\n",
    )
    assert (batch.directory / "batch.toml").read_bytes() == before


def test_an_audit_takes_memory_for_lines_and_not_for_what_a_ledger_says(batch, tmp_path):
    """A supplied ledger may give any number to a job."""
    copy = pulled(batch, tmp_path)
    with sqlite3.connect(copy / "ledger.sqlite3") as ledger:
        ledger.execute("UPDATE job SET id = 200000000 WHERE id = (SELECT max(id) FROM job)")
    tracemalloc.start()
    try:
        assert audit_records(copy).right == len(JOBS)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
