"""Starts that something between here and the API answers, and starts that the API refuses for a reason."""

import pytest

from batchrun.errors import TokenUnconfirmed
from batchrun.model import Outcome, Record, RunOptions
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, foreign_page, in_order


async def one_job(api: ScriptedApi) -> Record:
    """Carry one job out; return its record."""
    records = await Engine(api, WatchedLedger(), ListSource([make_job()])).run()
    assert len(records) == 1
    return records[0]


@pytest.mark.parametrize(
    ("options", "error_type"),
    [
        (RunOptions(build="old"), "build-outdated"),
        (RunOptions(build="broken"), "invalid-build"),
        (RunOptions(max_total_charge_usd=0.01), "max-total-charge-usd-below-minimum"),
    ],
)
async def test_a_refusal_of_a_jobs_own_option_rejects_that_job_alone(options: RunOptions, error_type: str) -> None:
    """The next job, without the option, is started."""
    api = ScriptedApi(in_order(Plan(error=api_error(400, error_type))))
    jobs = [make_job(1, options=options), make_job(2)]
    records = await Engine(api, WatchedLedger(), ListSource(jobs), slots=1).run()
    assert [record.outcome for record in records] == [Outcome.REJECTED, Outcome.SUCCEEDED]


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 405, 421, 425, 429, 503])
async def test_a_page_in_place_of_an_answer_to_a_start_leaves_it_in_doubt(status: int) -> None:
    """The Run that was started all the same is adopted: one POST, one Run."""
    api = ScriptedApi(in_order(Plan(error=foreign_page(status), effects=1, run_s=30)))
    record = await one_job(api)
    assert (record.outcome, len(api.posts), len(api.run_ids)) == (Outcome.SUCCEEDED, 1, 1)


async def test_a_job_that_a_firewall_blocks_ends_alone_with_its_line() -> None:
    """All other jobs succeed; the blocked one is tried three times, and its error names line and page."""
    jobs = [make_job(n) for n in range(1, 31)]
    api = ScriptedApi(
        lambda n: Plan(error=foreign_page(403)) if api.posts[n - 1].body == jobs[9].body else Plan(run_s=1)
    )
    records = await Engine(api, WatchedLedger(), ListSource(jobs), slots=3).run()
    blocked = [record for record in records if record.outcome is not Outcome.SUCCEEDED]
    assert [(record.line, record.outcome, len(record.attempts)) for record in blocked] == [(10, Outcome.FAILED, 3)]
    assert blocked[0].error is not None
    assert blocked[0].error.type == "start-blocked"
    assert "line 10:" in blocked[0].error.message
    assert 'an HTML page "Blocked"' in blocked[0].error.message
    assert (len(records), len(api.run_ids)) == (30, 29)


async def test_a_lone_job_whose_starts_have_no_effect_ends_too() -> None:
    """Without other starts to compare with it is tried ten times, not for ever."""
    record = await one_job(ScriptedApi(Plan(error=foreign_page(503))))
    assert (record.outcome, len(record.attempts)) == (Outcome.FAILED, 10)


async def test_a_401_that_a_second_look_did_not_confirm_costs_nothing() -> None:
    """The start is sent again, as the same attempt."""
    refused = TokenUnconfirmed(status=401, type="x", message="m", method="POST", path="/")
    record = await one_job(ScriptedApi(in_order(Plan(error=refused))))
    assert (record.outcome, [attempt.attempt_no for attempt in record.attempts]) == (Outcome.SUCCEEDED, [1])
