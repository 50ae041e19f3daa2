"""Starts that something between here and the API answers, and starts that the API refuses for a reason."""

import anyio
import pytest

from batchrun.errors import TokenUnconfirmed
from batchrun.model import Job, Outcome, Problem, Record, RunOptions
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


def account_of_8_gb(message: str) -> ScriptedApi:
    """Return an account that refuses each larger start with this message, and shows no limits."""
    error = api_error(402, "actor-memory-limit-exceeded", message=message)
    api = ScriptedApi(
        lambda n: Plan(error=error) if (api.posts[n - 1].options.memory_mb or 0) > 8192 else Plan(run_s=20)
    )
    return api


def a_large_one_among(count: int) -> list[Job]:
    """Return jobs of 256 MB, and the second of them of 32 GB."""
    sizes = {2: RunOptions(memory_mb=32_768)}
    return [make_job(n, options=sizes.get(n, RunOptions(memory_mb=256))) for n in range(1, count + 1)]


async def test_a_job_larger_than_the_account_is_rejected_at_the_first_refusal_that_shows_it() -> None:
    """The account shows no limits; its message names its memory, and is shown. The other jobs are not held up."""
    message = "By launching this job you will exceed the memory limit of 8,192MB for all your Actor runs"
    api = account_of_8_gb(message)
    records = await Engine(api, WatchedLedger(), ListSource(a_large_one_among(40)), slots=4).run()
    (large,) = [record for record in records if record.outcome is not Outcome.SUCCEEDED]
    assert (large.outcome, large.line, large.error) == (
        Outcome.REJECTED,
        2,
        Problem(type="actor-memory-limit-exceeded", message=f"asks for 32,768 MB: {message}"),
    )
    assert (len(records), len(api.posts), anyio.current_time() < 250) == (40, 40, True)


async def test_a_job_larger_than_the_account_is_rejected_within_a_bound() -> None:
    """The message does not say how much memory there is: the job is given up ten minutes after the last other Run."""
    api = account_of_8_gb("no memory is left")
    records = await Engine(api, WatchedLedger(), ListSource(a_large_one_among(40)), slots=4).run()
    assert [record.outcome for record in records] == [*[Outcome.SUCCEEDED] * 39, Outcome.REJECTED]
    assert 600 < anyio.current_time() < 1500


@pytest.mark.parametrize("error_type", ["actor-memory-limit-exceeded", "concurrent-runs-limit-exceeded"])
async def test_a_job_that_may_fit_waits_for_a_full_account(error_type: str) -> None:
    """For an hour and longer: others use the account, and Runs as large as this one have been started."""
    plans = [Plan(run_s=1), *[Plan(error=api_error(402, error_type))] * 600]
    api = ScriptedApi(in_order(*plans, then=Plan(run_s=1)))
    jobs = [make_job(n, options=RunOptions(memory_mb=256)) for n in (1, 2)]
    records = await Engine(api, WatchedLedger(), ListSource(jobs), slots=1).run()
    assert [record.outcome for record in records] == [Outcome.SUCCEEDED] * 2
    assert anyio.current_time() > 3600


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


async def test_a_job_that_a_gateway_fails_is_tried_longer_than_one_that_a_firewall_blocks() -> None:
    """A gateway's page says nothing about the job: five in a row, while other jobs start, are chance."""
    jobs = [make_job(n) for n in range(1, 31)]
    of_tenth = 0

    def plan(n: int) -> Plan:
        nonlocal of_tenth
        of_tenth += api.posts[n - 1].body == jobs[9].body
        return (
            Plan(error=foreign_page(502)) if api.posts[n - 1].body == jobs[9].body and of_tenth < 6 else Plan(run_s=1)
        )

    api = ScriptedApi(plan)
    records = await Engine(api, WatchedLedger(), ListSource(jobs), slots=3).run()
    assert {record.outcome for record in records} == {Outcome.SUCCEEDED}
    assert [len(record.attempts) for record in records if record.line == 10] == [6]


async def test_a_lone_job_whose_starts_have_no_effect_ends_too() -> None:
    """Without other starts to compare with it is tried ten times, not for ever."""
    record = await one_job(ScriptedApi(Plan(error=foreign_page(503))))
    assert (record.outcome, len(record.attempts)) == (Outcome.FAILED, 10)


async def test_a_401_that_a_second_look_did_not_confirm_costs_nothing() -> None:
    """The start is sent again, as the same attempt."""
    refused = TokenUnconfirmed(status=401, type="x", message="m", method="POST", path="/")
    record = await one_job(ScriptedApi(in_order(Plan(error=refused))))
    assert (record.outcome, [attempt.attempt_no for attempt in record.attempts]) == (Outcome.SUCCEEDED, [1])
