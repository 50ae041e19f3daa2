"""An output directory that somebody else supplies: no command on it gives him the token or runs what he names."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from batchrun.jobs import JobFile, JobFormat
from batchrun.ledger.facts import CONFIG, SIGNATURE
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import Job
from batchrun.output.layout import JOB_FILE, LEDGER, RECORDS, REPORT, RUN_LOGS
from tests.support.command_line import Said, batchrun
from tests.support.crash import CrashBatch, open_api

TOKEN = {"APIFY_TOKEN": "any"}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a batch of which a job failed."""
    directory = tmp_path_factory.mktemp("theirs")
    with open_api(directory / "api") as api:
        batch = CrashBatch(directory, api.base_url, [{"fails": True}], {"retry.max_attempts": 1})
        assert batch.spawn().wait() == 1, batch.said()
    return batch.out


@pytest.fixture
def theirs(ended: Path, tmp_path: Path) -> Path:
    """Return a directory that has come from somebody else, who has another key."""
    shutil.copytree(ended, tmp_path / "theirs.out")
    return tmp_path / "theirs.out"


def _as_victim(*words: str, theirs: Path) -> Said:
    environ = {"APIFY_TOKEN": "apify_api_of_the_victim", "XDG_STATE_HOME": str(theirs.parent / "state")}
    return batchrun(*words, "theirs.out", cwd=theirs.parent, environ=environ)


@pytest.mark.parametrize("verb", ["abort", "resolve", "repair", "retry"])
def test_a_directory_of_somebody_else_chooses_nothing(theirs, verb):
    """Neither the platform that gets the token, nor a file that is read, nor a program, an Actor, a task or a store."""
    said = _as_victim(verb, theirs=theirs)
    assert said.code == 2, said
    assert "theirs.out: was not last run by you on this machine" in said.err
    assert "batchrun run BATCH.toml" in said.err


def test_no_ledger_is_rebuilt_by_the_configuration_of_somebody_else(theirs):
    """Any file would be read as the job file."""
    (theirs / LEDGER).unlink()
    said = _as_victim("repair", theirs=theirs)
    assert said.code == 2, said
    assert "theirs.out: was not last run by you on this machine" in said.err


@pytest.mark.parametrize("leads_by", ["name", "link"])
@pytest.mark.parametrize("verb", ["failures", "report"])
def test_no_line_is_shown_of_a_file_that_somebody_else_names(theirs, verb, leads_by):
    """Who supplies a directory chooses the file, the places of lines, and the digests: those of all short texts."""
    secret = theirs.parent / "secret.jsonl"
    secret.write_text('{"of the victim": true}\n')
    with JobFile(JobFormat(path=secret)) as job_file:
        (line,) = (job for job in job_file.read() if isinstance(job, Job))
    with open_ledger(theirs) as ledger, ledger.transaction():
        noted = ledger.fact(CONFIG)
        assert noted is not None
        named = secret if leads_by == "name" else theirs / "no-such.jsonl"
        log = {} if leads_by == "name" else {"url": "nats://127.0.0.1:1", "lease_s": 0.01}
        changed_config = {"jobs": {**noted["jobs"], "file": str(named)}, "replica": {**noted["replica"], **log}}
        ledger.note_fact(CONFIG, {**noted, **changed_config})
        changed = 'UPDATE job SET "offset" = 0, length = ?, key = ?, digest = ?'
        ledger._db.execute(changed, (secret.stat().st_size, line.key, line.digest))
    if leads_by == "link":
        (theirs / JOB_FILE).symlink_to(secret)
    said = _as_victim(verb, theirs=theirs)
    assert said.code == 0, said
    assert "What failed jobs were sent is not shown: theirs.out was not last run by you on this machine" in said.err
    assert "of the victim" not in said.out + ((theirs / REPORT).read_text() if verb == "report" else "")


@pytest.mark.parametrize("verb", ["failures", "report"])
def test_no_log_is_shown_that_a_link_leads_to(theirs, verb):
    """Any `*.log` file of the user would be taken for a Run's."""
    logs = theirs.parent / "logs_of_the_victim"
    logs.mkdir()
    (logs / "app.log").write_text("password of the victim\n")
    with open_ledger(theirs) as ledger, ledger.transaction():
        ledger._db.execute("UPDATE attempt SET run_id = 'app'")
    (theirs / RUN_LOGS).rename(theirs / "kept")
    (theirs / RUN_LOGS).symlink_to(logs)
    said = _as_victim(verb, theirs=theirs)
    assert said.code == 0, said
    assert "of the victim" not in said.out + ((theirs / REPORT).read_text() if verb == "report" else "")


def test_a_directory_that_was_run_by_this_user_needs_no_batch_file(ended, tmp_path):
    """Wherever it was moved; but a copy may have come back from somebody who has changed the jobs in it."""
    moved, copy = tmp_path / "moved.out", tmp_path / "copy.out"
    shutil.copytree(ended, copy)
    ended.rename(moved)
    try:
        said = batchrun("retry", "moved.out", "--dry-run", cwd=tmp_path, environ=TOKEN)
    finally:
        moved.rename(ended)
    assert said.code == 0, said
    said = batchrun("retry", "copy.out", "--dry-run", cwd=tmp_path, environ=TOKEN)
    assert said.code == 2, said
    assert "copy.out: was not last run by you on this machine and by this version, or it is a copy" in said.err


def test_without_a_home_the_way_to_keep_a_key_is_said(theirs):
    """A service may have none."""
    with open_ledger(theirs) as ledger, ledger.transaction():
        ledger.note_fact(SIGNATURE, "")
    said = _as_victim("abort", theirs=theirs)
    assert said.code == 2, said
    assert (
        "was last run without a home that could keep a key (XDG_STATE_HOME may name another place for it)" in said.err
    )


#: A name that tab completion types right; a command with it, pasted without quotes, runs `touch`.
_HOSTILE = "it's;touch$IFSpwned;$(touch pwned).out"


@pytest.mark.parametrize(
    "words",
    [("audit",), ("export", "records.csv"), ("export", "records.jsonl"), ("failures",)],
    ids=" ".join,
)
def test_a_pasted_command_takes_the_name_of_a_directory_for_a_name(theirs, words):
    """Who supplies a directory chooses its name, and by its damage which command is advised."""
    hostile = theirs.rename(theirs.with_name(_HOSTILE))
    (hostile / RECORDS).write_bytes(b"")
    verb, *more = words
    said = batchrun(verb, hostile.name, *more, cwd=theirs.parent, environ=TOKEN)
    advised = re.findall(r"batchrun (?:repair|retry) [^`\n]*", said.out + said.err)
    assert advised, said
    assert all(hostile.name in shlex.split(each) for each in advised), advised
