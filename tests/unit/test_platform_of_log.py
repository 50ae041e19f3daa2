"""A platform that a batch's shared log names gets no token, unless the user names it too."""

from pathlib import Path

import anyio.to_thread
import pytest

from batchrun.config.sections import ApiConfig, Config, JobsConfig, TaskConfig
from batchrun.errors import ConfigError
from batchrun.ledger.facts import CONFIG, LOG_POSITION
from batchrun.ledger.shared_commits import LogPosition
from batchrun.ledger.sqlite.tables import open_tables
from batchrun.maintenance.idle_batch import open_idle_batch
from batchrun.maintenance.noted_config import refuse_platform_of_log

FOREIGN = ApiConfig(base_url="https://platform.example")


def _note(directory: Path, api: ApiConfig, is_of_log: bool) -> None:
    config = Config(api=api, task=TaskConfig(id="me~task"), jobs=JobsConfig(file=Path("jobs.jsonl")))
    with open_tables(directory) as ledger, ledger.transaction():
        ledger.note_fact(CONFIG, config.as_noted())
        if is_of_log:
            ledger.note_fact(LOG_POSITION, LogPosition(entry=0, digest=""))


async def test_a_platform_of_a_shared_log_is_not_asked(tmp_path: Path) -> None:
    """Who can write to the log would choose who gets the token."""
    await anyio.to_thread.run_sync(_note, tmp_path, FOREIGN, True)
    with pytest.raises(ConfigError, match=r"set BATCHRUN_API__BASE_URL=https://platform\.example"):
        async with open_idle_batch(tmp_path, {"APIFY_TOKEN": "secret"}):
            raise AssertionError


def test_a_platform_that_the_user_names_is_asked(tmp_path: Path) -> None:
    """And Apify, and those on this machine, and any of a batch without a log."""
    _note(tmp_path, FOREIGN, True)
    refuse_platform_of_log(tmp_path, FOREIGN, {"BATCHRUN_API__BASE_URL": FOREIGN.base_url})
    for own in (ApiConfig(), ApiConfig(base_url="embedded"), ApiConfig(base_url="http://127.0.0.1:3333")):
        refuse_platform_of_log(tmp_path, own, {})
    (tmp_path / "alone").mkdir()
    _note(tmp_path / "alone", FOREIGN, False)
    refuse_platform_of_log(tmp_path / "alone", FOREIGN, {})
