"""The configuration that a ledger notes, read again by the commands on its directory."""

from pathlib import Path

import pytest

from batchrun.ledger.facts import CONFIG, TASK_ID
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.maintenance.noted_config import read_config
from batchrun.model import JsonObject, TaskId


@pytest.mark.parametrize(("noted", "is_allowed"), [({}, True), ({"allow_plain_http": False}, False)])
def test_a_batch_of_a_version_without_the_key_can_still_be_aborted(
    tmp_path: Path, noted: JsonObject, is_allowed: bool
) -> None:
    """Its platform was reached over plain http; a batch that was noted with the key keeps its value."""
    api = {"base_url": "http://api.example", **noted}
    with open_ledger(tmp_path) as ledger, ledger.transaction():
        ledger.note_fact(CONFIG, {"api": api, "task": {"id": "t"}, "jobs": {"file": "jobs.jsonl"}})
        ledger.note_fact(TASK_ID, TaskId("t"))
    config, _ = read_config(tmp_path)
    assert config.api.allow_plain_http is is_allowed
