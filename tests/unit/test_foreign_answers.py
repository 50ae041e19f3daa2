"""Whose word an answer is: the API's own, or that of something between here and the API."""

from collections.abc import Callable, Iterator

import anyio
import pytest

from batchrun.account.connect import patiently
from batchrun.account.task import Task
from batchrun.apify.client import ApifyClient
from batchrun.errors import (
    ApiError,
    ConnectFailed,
    ForeignAnswer,
    NotFound,
    ServerFailed,
    TokenUnconfirmed,
    Unauthorized,
)
from batchrun.model import DatasetId, Mark, RunId, RunOptions, StoreId, TaskId
from batchrun.preflight.builds import read_build
from batchrun.runtime.children import open_children
from tests.support.scripted_session import Response, api_refusal, client_of, page

RUN = {"id": "r", "status": "SUCCEEDED", "startedAt": "2026-01-01T00:00:00.000Z"}
TOKEN_UNKNOWN = api_refusal(401, "user-or-token-not-found")
STATUSES = (200, 302, 400, 401, 403, 404, 405, 407, 421, 425, 429, 502, 503, 524)


def at_first(*answers: Response, then: Response) -> Callable[[str], Response]:
    """Return a script that gives these answers, whatever is asked, and then always the last one."""
    left: Iterator[Response] = iter(answers)
    return lambda _: next(left, then)


async def start(client: ApifyClient) -> str:
    """Start a Run."""
    return (await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"))).id


@pytest.mark.parametrize("status", STATUSES)
async def test_a_read_that_is_answered_by_a_page_is_sent_again(status: int) -> None:
    """A Run is read in spite of three pages before."""
    client, session = client_of(at_first(*[page(status)] * 3, then=Response(data=RUN)))
    assert (await client.get_run(RunId("r"))).id == "r"
    assert len(session.sent) == 4


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"<html></html>",
        b'{"message":"no Route matched"}',
        b'{"error":"Not found"}',
        b'{"error":{"code":404,"message":"m","status":"NOT_FOUND"}}',
        b'{"error":{"type":"","message":"m"}}',
        b'{"error":{"type":5,"message":"m"}}',
    ],
)
@pytest.mark.parametrize("status", [200, 403, 404])
async def test_only_the_apis_envelopes_count(body: bytes, status: int) -> None:
    """Another server's JSON is no answer either, with whatever status."""
    client, session = client_of(at_first(Response(status, body=body), then=Response(data=RUN)))
    assert (await client.get_run(RunId("r"))).id == "r"
    assert len(session.sent) == 2


@pytest.mark.parametrize(
    ("status", "error_type", "kind"),
    [(404, "record-not-found", NotFound), (403, "insufficient-permissions", Unauthorized)],
)
async def test_the_apis_own_word_is_not_asked_for_again(status: int, error_type: str, kind: type[ApiError]) -> None:
    """A 404 with the envelope is one request, and so is a 403: it says what this token may do."""
    client, session = client_of(lambda _: api_refusal(status, error_type))
    with pytest.raises(kind):
        await client.get_run(RunId("r"))
    assert len(session.sent) == 1


@pytest.mark.parametrize("status", STATUSES)
async def test_a_start_that_is_answered_by_a_page_is_sent_once_and_its_effect_is_unknown(status: int) -> None:
    """The error is no refusal, and names the page."""
    client, session = client_of(lambda _: page(status))
    with pytest.raises(ForeignAnswer, match=f'status {status} with an HTML page "Just a moment…"'):
        await start(client)
    assert len(session.sent) == 1


async def test_a_redirect_of_a_start_is_named_without_its_path() -> None:
    """The message says where to, and what to do; a path or a query may hold secrets."""
    moved = Response(308, headers={"Location": "https://user:pw@other.example/v2/x?token=1"}, body=b"")
    client, _ = client_of(lambda _: moved)
    with pytest.raises(ForeignAnswer) as caught:
        await start(client)
    words = "status 308: a redirect to https://other.example (if the API is there, set api.base_url to it)"
    assert str(caught.value) == f"POST /actor-tasks/t/runs: {words}"


async def test_a_server_error_of_the_api_is_an_outage_and_a_conflict_is_none() -> None:
    """Both leave a start in doubt; with the conflict the API itself has answered."""
    answer = [api_refusal(500, "internal-server-error")]
    client, _ = client_of(lambda _: answer[0])
    for _ in range(3):
        with pytest.raises(ServerFailed):
            await start(client)
    assert client.outage == "POST /actor-tasks/t/runs: 500 internal-server-error: so it is"
    answer[0] = api_refusal(409, "concurrent-update-detected")
    for _ in range(3):
        with pytest.raises(ServerFailed):
            await start(client)
    assert client.outage == ""


async def test_an_outage_of_one_endpoint_is_shown_while_others_answer() -> None:
    """Three pages in a row for Runs make one, limits or not; the next Run that is read ends it."""
    is_open = False
    client, _ = client_of(lambda path: Response(data=RUN) if is_open or "users" in path else page(503))
    async with anyio.create_task_group() as children:
        children.start_soon(client.get_run, RunId("r"))
        for _ in range(20):
            await client.get_limits()
            await anyio.sleep(1)
        assert client.outage == (
            'GET /actor-runs/r: status 503 with an HTML page "Just a moment…", which is not from the API'
        )
        is_open = True
    assert client.outage == ""


OTHERWISE = "answers, but not with what was asked for"
ODD = Response(data={"items": "none"})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ODD, "answers, but not with what was asked for (GET /actors/a/builds: the answer is not understood: its"),
        (
            api_refusal(429, "rate-limit-exceeded"),
            "answers, but not with what was asked for (GET /actors/a/builds: 429",
        ),
        (page(502), "does not answer (GET /actors/a/builds: status 502 with an HTML page"),
    ],
)
async def test_what_a_platform_does_in_place_of_an_answer_is_said(answer: Response, words: str) -> None:
    """An answer of another shape is none of silence; other reads that succeed meanwhile change nothing about it."""
    client, _ = client_of(lambda path: answer if "builds" in path else Response(data={"id": "a"}))

    async def read_others() -> None:
        while True:
            await client.get_actor("a")
            await anyio.sleep(0.1)

    async with open_children(cancels_on_leaving=True) as children:
        children.start_soon(read_others)
        with pytest.raises(ConnectFailed) as failed:
            await patiently(client, client.list_builds("a"))
    assert str(failed.value).startswith(f"{client.base_url} {words}")
    assert failed.value.reason + "; nothing was started. Check" in str(failed.value)
    assert client.failed_reads == []


async def test_a_build_that_cannot_be_read_keeps_no_batch_from_starting() -> None:
    """It says what the platform did; the whole of it is given less time than the batch gives the platform."""
    client, _ = client_of(lambda path: ODD if "builds" in path else Response(data={"id": "a"}))
    task = Task(id=TaskId("t"), label="t", actor_id="a", input={}, options={"build": "9.9.9"})
    build = await patiently(client, read_build(client, task, None))
    assert build.why_unchecked.startswith("asked for the Actor's build, the platform answers, but not with what was")


async def test_the_outage_of_logs_ends_with_a_log() -> None:
    """A streamed answer counts like any other."""
    client, _ = client_of(lambda _: Response(200, body=b"line\n", headers={"Content-Type": "text/plain"}))
    client._transport.outage.note_failure("x", "GET", "/logs/r")
    assert client.last_failure == "x"
    assert await client.get_log_tail(RunId("r"), 100) == b"line\n"
    assert client.last_failure == ""


@pytest.mark.parametrize("body", [b'{"message":"no Route matched"}', b"", b"<html></html>"])
async def test_another_servers_answers_with_status_200_are_an_outage(body: bytes) -> None:
    """Three in a row; the API's own answer that cannot be read is none."""
    client, _ = client_of(lambda _: Response(200, body=body))
    with anyio.move_on_after(10):
        await client.get_run(RunId("r"))
    assert "status 200 with" in client.outage
    odd, _ = client_of(lambda _: Response(200, body=b'{"data":[]}'))
    with anyio.move_on_after(10):
        await odd.get_run(RunId("r"))
    assert odd.outage == ""


async def test_an_endpoint_that_nothing_asks_any_more_is_no_outage() -> None:
    """The outage of one endpoint is forgotten after a minute without a request."""
    client, _ = client_of(lambda path: Response(data=RUN) if "users" in path else page(403))
    for _ in range(3):
        with pytest.raises(ForeignAnswer):
            await start(client)
    await client.get_limits()
    assert "POST /actor-tasks/t/runs" in client.outage
    await anyio.sleep(61)
    assert client.outage == ""


async def test_the_clock_of_something_in_between_is_not_believed() -> None:
    """Only the API's answers show the platform's time."""
    date = {"Date": "Fri, 02 Jan 2026 03:04:05 GMT"}
    client, _ = client_of(at_first(page(503, date), then=Response(data=RUN)))
    await client.get_run(RunId("r"))
    assert client.clock.date is None


async def test_a_page_that_asks_for_a_pause_gets_one() -> None:
    """Its `Retry-After` is obeyed, up to a minute."""
    client, session = client_of(at_first(page(429, {"Retry-After": "3600"}), then=Response(data=RUN)))
    await client.get_run(RunId("r"))
    assert session.sent[1].at == pytest.approx(60, abs=1)


async def test_a_stored_page_is_told_from_a_login_page() -> None:
    """An OUTPUT of type text/html counts once the API itself has answered between two equal readings."""
    login, stored = page(200), Response(200, headers={"Content-Type": "text/html"}, body=b"<p>mine</p>")
    is_open = False

    def script(path: str) -> Response:
        if not is_open:
            return login
        return stored if "records" in path else Response(data={"id": "s"})

    client, session = client_of(script)
    values = list[object]()

    async def read() -> None:
        values.append(await client.get_value(StoreId("s"), "OUTPUT"))

    async with anyio.create_task_group() as children:
        children.start_soon(read)
        await anyio.sleep(30)
        assert values == []
        is_open = True
    assert values == ["<p>mine</p>"]
    assert session.times("key-value-stores/s")


async def test_a_page_is_no_page_of_items() -> None:
    """Nor is an empty answer an empty dataset."""
    client, _ = client_of(at_first(page(200), Response(200, body=b""), then=Response(200, body=b'[{"n":1}]')))
    items = await client.get_items(DatasetId("d"), offset=0, limit=10, query={})
    assert items.items == [{"n": 1}]


async def test_a_401_for_one_read_is_looked_at_twice() -> None:
    """The account accepts the token: the read is sent again and passes."""
    refusals = [TOKEN_UNKNOWN]
    client, session = client_of(lambda path: refusals.pop() if refusals and "runs" in path else Response(data=RUN))
    assert (await client.get_run(RunId("r"))).id == "r"
    assert [sent.path for sent in session.sent] == ["actor-runs/r", "users/me", "actor-runs/r"]


async def test_a_401_that_the_account_confirms_ends_it() -> None:
    """Two requests, one error."""
    client, session = client_of(lambda _: TOKEN_UNKNOWN)
    with pytest.raises(Unauthorized):
        await client.get_run(RunId("r"))
    assert [sent.path for sent in session.sent] == ["actor-runs/r", "users/me"]


async def test_a_401_while_the_account_cannot_be_asked_is_not_confirmed() -> None:
    """A page in place of the account's answer is no confirmation."""
    answers = [TOKEN_UNKNOWN, page(503)]
    client, _ = client_of(lambda _: answers.pop(0) if answers else Response(data=RUN))
    assert (await client.get_run(RunId("r"))).id == "r"


async def test_a_401_for_good_is_believed_in_spite_of_the_account() -> None:
    """The fourth in a row; it is not asked for ever."""
    client, session = client_of(lambda path: TOKEN_UNKNOWN if "runs" in path else Response(data=RUN))
    with pytest.raises(Unauthorized):
        await client.get_run(RunId("r"))
    assert len(session.times("actor-runs/r")) == 4


async def test_one_look_serves_all_requests_that_were_refused_together() -> None:
    """Twenty reads, one question to the account."""
    client, session = client_of(lambda _: TOKEN_UNKNOWN)

    async def read(n: int) -> None:
        with pytest.raises(Unauthorized):
            await client.get_run(RunId(f"r{n}"))

    async with anyio.create_task_group() as children:
        for n in range(20):
            children.start_soon(read, n)
    assert len(session.times("users/me")) == 1


async def test_a_start_with_401_that_the_account_does_not_confirm_may_be_sent_again() -> None:
    """Three times; the fourth in a row is a refusal of the batch."""
    client, session = client_of(lambda path: TOKEN_UNKNOWN if "runs" in path else Response(data=RUN))
    for _ in range(3):
        with pytest.raises(TokenUnconfirmed):
            await start(client)
        await anyio.sleep(5)
    with pytest.raises(Unauthorized):
        await start(client)
    assert len(session.times("actor-tasks/t/runs")) == 4


async def test_many_starts_that_are_refused_together_count_once() -> None:
    """Twenty refusals at one moment are one blip, and no start of them is a refusal of the batch."""
    client, session = client_of(lambda path: TOKEN_UNKNOWN if "runs" in path else Response(data=RUN))
    unconfirmed = list[int]()

    async def start_one(n: int) -> None:
        with pytest.raises(TokenUnconfirmed):
            await start(client)
        unconfirmed.append(n)

    async with anyio.create_task_group() as children:
        for n in range(20):
            children.start_soon(start_one, n)
    assert len(unconfirmed) == 20
    assert len(session.times("users/me")) == 1
