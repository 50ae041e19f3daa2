"""Costs become final: whichever process touches a batch reads those that are not."""

from pathlib import Path

import pytest

from tests.support.api_process import TOKEN
from tests.support.command_line import Said, batchrun
from tests.support.crash import CrashBatch, open_api, some_jobs
from tests.support.money import assert_costs_are_the_servers
from tests.support.patience import SOON_FINAL_COSTS, SOON_SETTLED_S

#: A batch that does not wait at its end.
HASTY = {**SOON_FINAL_COSTS, "batchrun.engine.background.final_costs.PATIENCE_S": 0}


def _say(batch: CrashBatch, *arguments: str) -> Said:
    return batchrun(*arguments, cwd=batch.directory, environ={"APIFY_TOKEN": TOKEN}, constants=SOON_FINAL_COSTS)


def _batch(tmp_path: Path, base_url: str) -> CrashBatch:
    jobs = [{**job, "items": 3} for job in some_jobs(12)]
    return CrashBatch(tmp_path, base_url, jobs, {"retry.max_attempts": 1}, constants=HASTY)


@pytest.mark.parametrize(
    "command", [("cost", "out"), ("status", "out", "--refresh"), ("repair", "out"), ("run", "batch.toml")]
)
def test_the_next_command_reads_what_is_not_final(tmp_path, command):
    """A process that ends before its costs are final says so everywhere, and loses no cent by it."""
    with open_api(tmp_path / "api", usage_settle_s=SOON_SETTLED_S) as api:
        batch = _batch(tmp_path, api.base_url)
        assert batch.run() == 1, batch.said()
        assert "(not final for 12 Runs)" in batch.said()
        records = batch.records()
        assert {record["cost_is_final"] for record in records} == {False}
        assert "(not final for 12 Runs)" in _say(batch, "status", "out").out
        flags = batch.flags if command[0] == "run" else []
        assert _say(batch, *command, *flags).code in (0, 1)
        runs = api.runs()
        assert sum(run["usageTotalUsd"] for run in runs) > sum(record["cost_usd"] for record in records)
        assert_costs_are_the_servers(batch.out, runs)
        assert "not final" not in _say(batch, "status", "out").out


def test_a_batch_waits_for_its_costs(tmp_path):
    """Without a budget too, and on a server on this machine too."""
    with open_api(tmp_path / "api", usage_settle_s=SOON_SETTLED_S) as api:
        batch = _batch(tmp_path, api.base_url)
        batch.constants = SOON_FINAL_COSTS
        assert batch.run() == 1, batch.said()
        assert "until their costs are final" in batch.said()
        assert_costs_are_the_servers(batch.out, api.runs())


def test_costs_are_shown_when_the_platform_does_not_answer(tmp_path):
    """What is known is printed, with a note that it could not be finalised."""
    with open_api(tmp_path / "api", usage_settle_s=SOON_SETTLED_S) as api:
        batch = _batch(tmp_path, api.base_url)
        assert batch.run() == 1, batch.said()
    hasty = {**SOON_FINAL_COSTS, "batchrun.account.connect.PATIENCE_S": 0.2}
    said = batchrun("cost", "out", "--csv", cwd=tmp_path, environ={"APIFY_TOKEN": TOKEN}, constants=hasty)
    assert (said.code, "does not answer" in said.err) == (0, True), said
    assert said.out.splitlines()[-1].startswith("total,12,")
    assert said.out.splitlines()[-1].endswith(",12")
