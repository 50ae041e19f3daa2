"""How the client obeys rate limits, over a session whose answers a test scripts."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import pytest

from batchrun.apify.client import ApifyClient
from batchrun.errors import RateLimited
from batchrun.model import Mark, Run, RunId, RunOptions, TaskId
from tests.support.scripted_session import Response, api_refusal, client_of

RUN = {"id": "r", "status": "SUCCEEDED", "startedAt": "2026-01-01T00:00:00.000Z"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _limited(retry_after: str | None = None) -> Response:
    return api_refusal(429, "rate-limit-exceeded", None if retry_after is None else {"Retry-After": retry_after})


def answer(path: str) -> Response:
    """Return the answer of a healthy platform."""
    return Response(data={"items": []} if path == "actor-runs" else RUN)


async def start(client: ApifyClient) -> Run:
    """Start a Run."""
    return await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"))


@pytest.mark.parametrize("method", ["get_run", "abort_run"])
async def test_a_refused_request_is_repeated_with_growing_waits(method: str) -> None:
    """In ten minutes of 429 between 10 and 60 requests are sent."""
    client, session = client_of(lambda _: _limited())
    with anyio.move_on_after(600):
        await getattr(client, method)(RunId("r"))
    assert 10 <= len(session.sent) <= 60


async def test_a_429_for_one_run_delays_no_other_request() -> None:
    """Other Runs are read without a wait."""
    client, session = client_of(
        lambda path: answer(path) if path != "actor-runs/a" or len(session.times(path)) > 3 else _limited()
    )
    ended = dict[str, float]()

    async def read(run_id: str) -> None:
        await client.get_run(RunId(run_id))
        ended[run_id] = anyio.current_time()

    async with anyio.create_task_group() as children:
        children.start_soon(read, "a")
        await anyio.sleep(0.1)
        for run_id in "bcde":
            children.start_soon(read, run_id)
    assert {run_id: at for run_id, at in ended.items() if run_id != "a"} == dict.fromkeys("bcde", 0.1)
    assert ended["a"] >= 0.5 + 1 + 2
    assert client.account.try_take_token()


async def test_a_429_for_a_list_delays_lists_only() -> None:
    """Lists wait as long as the 429 asks; a Run is read meanwhile."""
    refusals = [_limited("20")]
    client, session = client_of(lambda path: refusals.pop() if path == "actor-runs" and refusals else answer(path))
    async with anyio.create_task_group() as children:
        children.start_soon(lambda: client.list_runs(started_after=NOW, offset=0))
        await anyio.sleep(1)
        children.start_soon(lambda: client.list_runs(started_after=NOW, offset=0))
        await client.get_run(RunId("r"))
        assert anyio.current_time() == 1
    assert session.times("actor-runs") == pytest.approx([0, 20, 20 + 1 / 57])


async def test_a_429_for_many_resources_in_a_row_delays_all_requests() -> None:
    """When no request passes any more, the account's own limit is the cause."""
    is_open = False
    client, session = client_of(lambda path: answer(path) if is_open else _limited("30"))
    async with anyio.create_task_group() as children:
        for run_id in "abcde":
            children.start_soon(client.get_run, RunId(run_id))
        await anyio.sleep(1)
        is_open = True
        await client.get_run(RunId("f"))
        assert anyio.current_time() == pytest.approx(30)
    assert len(session.sent) == 11


async def test_a_retry_after_may_be_a_date() -> None:
    """It is waited for by this machine's clock."""
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    refusals = [_limited(until)]
    client, session = client_of(lambda path: refusals.pop() if refusals else answer(path))
    await client.get_run(RunId("r"))
    assert session.sent[1].at == pytest.approx(99, abs=2)


@pytest.mark.parametrize("asked", ["0", "Fri, 02 Jan 2015 03:04:05 GMT"])
@pytest.mark.parametrize("method", ["get_run", "list_task_runs"])
async def test_a_retry_after_of_nothing_gets_our_own_waits(method: str, asked: str) -> None:
    """In ten minutes of such answers between 10 and 60 requests are sent, of one Run or of a list."""
    client, session = client_of(lambda _: _limited(asked))
    with anyio.move_on_after(600):
        if method == "get_run":
            await client.get_run(RunId("r"))
        else:
            await client.list_task_runs(TaskId("t"), limit=1)
    assert 10 <= len(session.sent) <= 60


async def test_a_start_is_sent_at_once_also_while_the_account_is_closed() -> None:
    """The intent is noted before: a process that died during a wait here would leave a doubt behind."""
    client, session = client_of(answer)
    client.account.refused(1000)
    await start(client)
    assert [(sent.at, sent.path) for sent in session.sent] == [(0.0, "actor-tasks/t/runs")]


async def test_the_limit_of_starts_is_learned_from_their_answers() -> None:
    """Refusals announce it too; each change is reported once."""
    texts = iter(["400", "400", "100", "100", "400"])
    learned = list[float]()
    client, _ = client_of(
        lambda _: (
            api_refusal(429, "rate-limit-exceeded", {"X-RateLimit-Limit": next(texts)})
            if len(learned) == 2
            else Response(201, RUN, {"X-RateLimit-Limit": next(texts)})
        )
    )
    client.start_limit.subscribe(learned.append)
    for _ in range(5):
        try:
            await start(client)
        except RateLimited:
            continue
    assert learned == [400, 100, 400]


async def test_the_limit_of_lists_is_learned_from_their_answers() -> None:
    """With an announced limit of 10, lists are sent at 9.5 per second."""
    client, session = client_of(lambda _: Response(data={"items": []}, headers={"X-RateLimit-Limit": "10"}))
    for _ in range(4):
        await client.list_runs(started_after=NOW, offset=0)
    times = session.times("actor-runs")
    assert [later - times[1] for later in times[1:]] == pytest.approx([0, 1 / 9.5, 2 / 9.5])
