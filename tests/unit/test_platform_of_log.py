"""What a batch's shared log says of the configuration gets no token: others can write to the log."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from batchrun.cli.retry_command import resume_command
from batchrun.config.api_settings import ApiConfig
from batchrun.config.batch_config import Config
from batchrun.config.jobs_settings import JobsConfig
from batchrun.config.output_settings import OutputConfig
from batchrun.config.task_settings import TaskConfig
from batchrun.errors import ConfigError, DamagedLedger
from batchrun.ledger.facts import COMMAND, CONFIG, DUPLICATES, JOB_COUNT, LOG_POSITION, SIGNATURE, TRIPS, WAIT, Fact
from batchrun.ledger.shared_commits import LogPosition
from batchrun.ledger.sqlite.tables import open_ledger, open_tables
from batchrun.maintenance.idle_batch import open_idle_batch
from batchrun.maintenance.noted_config import read_config, read_own_config
from batchrun.model import Command, JsonObject, TaskId, read_json, write_json
from batchrun.output.layout import LEDGER, OWN_CONFIG
from batchrun.preflight.same_batch import signed_content
from batchrun.report.batch_status import read_status
from batchrun.runtime.own_signature import sign


def _config(directory: Path, base_url: str) -> Config:
    return Config(
        api=ApiConfig(base_url=base_url),
        task=TaskConfig(id="me~task"),
        jobs=JobsConfig(file=Path("jobs.jsonl")),
        output=OutputConfig(dir=directory),
    )


def _note(directory: Path, *, is_of_log: bool) -> None:
    """Note the configuration of somebody else in a ledger."""
    with open_tables(directory) as ledger, ledger.transaction():
        ledger.note_fact(CONFIG, _config(directory, "http://127.0.0.1:1").as_noted())
        noted = ledger.fact(CONFIG)
        assert noted is not None
        ledger.note_fact(SIGNATURE, sign(signed_content(noted, TaskId(""), directory)))
        if is_of_log:
            ledger.note_fact(LOG_POSITION, LogPosition(entry=0, digest=""))


async def test_a_configuration_that_only_a_shared_log_has_gets_no_token(tmp_path: Path) -> None:
    """Who can write to the log would choose the platform, the file of the token, and Actors to run."""
    await anyio.to_thread.run_sync(lambda: _note(tmp_path, is_of_log=True))
    with pytest.raises(ConfigError, match="Run the batch here first"):
        async with open_idle_batch(tmp_path, {"APIFY_TOKEN": "secret"}):
            raise AssertionError


def test_the_configuration_that_was_given_here_counts(tmp_path: Path) -> None:
    """Whatever the log says meanwhile."""
    _note(tmp_path, is_of_log=True)
    own: JsonObject = read_json(write_json(_config(tmp_path, "https://own.example").as_noted()))
    signature = sign(signed_content(own, TaskId(""), tmp_path))
    (tmp_path / OWN_CONFIG).write_bytes(write_json({**own, SIGNATURE.name: signature}))
    assert read_own_config(tmp_path)[0].api.base_url == "https://own.example"


def test_a_configuration_that_only_a_shared_log_has_names_no_file_of_this_machine(tmp_path: Path) -> None:
    """A report would show lines of any file that looks like a job file: those of failed jobs."""
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text('{"secret":1}\n')
    out = tmp_path / "out"
    out.mkdir()
    given = _config(out, "https://own.example").as_noted()
    given["jobs"]["file"] = given["api"]["token_file"] = given["output"]["expect_item_schema"] = str(theirs)
    with open_tables(out) as ledger, ledger.transaction():
        ledger.note_fact(CONFIG, given)
        ledger.note_fact(LOG_POSITION, LogPosition(entry=0, digest=""))
    config, _ = read_config(out)
    assert (config.jobs.file.parent, config.jobs.file.suffix) == (out / LEDGER, ".jsonl"), "no file can be there"
    assert (config.api.token_file, config.output.expect_item_schema, config.output.dir) == (None, None, out)
    signature = sign(signed_content(read_json(write_json(given)), TaskId(""), out))
    (out / OWN_CONFIG).write_bytes(write_json({**given, SIGNATURE.name: signature}))
    assert read_config(out)[0].jobs.file == theirs


def test_without_a_shared_log_the_ledger_counts(tmp_path: Path) -> None:
    """Nobody else can write to it."""
    _note(tmp_path, is_of_log=False)
    assert read_own_config(tmp_path)[0].api.base_url == "http://127.0.0.1:1"


def test_no_command_of_a_shared_log_is_shown_to_be_pasted(tmp_path: Path) -> None:
    """One that was noted here is shown as one line, whatever a job file's name holds."""
    with open_tables(tmp_path) as ledger, ledger.transaction():
        ledger.note_fact(COMMAND, Command(line="batchrun run 'a\nb.toml'", directory="/"))
    assert resume_command(tmp_path) == "batchrun run 'a b.toml'  (in /)"
    _note(tmp_path, is_of_log=True)
    assert resume_command(tmp_path) == "the command that began the batch (batchrun run …)"


@pytest.mark.parametrize("fact", [CONFIG, DUPLICATES, COMMAND, TRIPS, JOB_COUNT, WAIT], ids=lambda fact: fact.name)
@pytest.mark.parametrize("noted", ['"x"', "[1]", '{"limits":7,"line":7}', "7.5"])
def test_a_fact_of_another_kind_is_damage_or_harmless(tmp_path: Path, fact: Fact[Any], noted: str) -> None:
    """Whoever can write to the log chooses it; `status` reads most of them."""
    with open_ledger(tmp_path) as ledger, ledger.transaction():
        ledger.note_json(fact.name, noted)
    with suppress(DamagedLedger):
        read_status(tmp_path)
    with suppress(DamagedLedger):
        resume_command(tmp_path)
