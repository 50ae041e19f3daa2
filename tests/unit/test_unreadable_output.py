"""Output that one Run's store or dataset will not give: bounded, and told apart from an outage of the platform."""

from collections.abc import Callable

import anyio
import pytest

from batchrun.apify import answers as answers_of_the_api
from batchrun.engine.collect import MAX_ALONE_BYTES
from batchrun.errors import AnswerTooLarge, ServerFailed, is_out_of_memory
from batchrun.model import Attempt, DatasetId, Outcome, Record, RunId, StoreId
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, output_plan
from tests.support.scripted_session import Response, api_refusal, client_of

ITEM = Response(body=b'[{"a": 1}]')
FAILED = api_refusal(500, "internal-server-error")


def answers(*, others_are_read: Callable[[], bool], platform_lives: Callable[[], bool]) -> Callable[[str], Response]:
    """Return a platform on which the dataset `broken` is never read."""

    def answer(path: str) -> Response:
        if not path.startswith("datasets/"):
            return Response(data={"username": "user"}) if platform_lives() else FAILED
        return ITEM if path == "datasets/other/items" and others_are_read() else FAILED

    return answer


@pytest.mark.parametrize(
    ("others_are_read", "platform_lives", "ends_after_s"),
    [(True, True, (5.0, 40.0)), (False, True, (200.0, 400.0)), (False, False, None)],
)
async def test_a_dataset_that_stays_unreadable_is_given_up_only_while_the_platform_answers_others(
    others_are_read: bool, platform_lives: bool, ends_after_s: tuple[float, float] | None
) -> None:
    """Soon while other datasets are read, later while anything is; in an outage of the platform, never."""
    script = answers(others_are_read=lambda: others_are_read, platform_lives=lambda: platform_lives)
    client, _ = client_of(script)
    async with anyio.create_task_group() as children:

        async def read_others() -> None:
            while True:
                await anyio.sleep(1)
                with anyio.move_on_after(0.5):
                    await client.get_items(DatasetId("other"), offset=0, limit=1, query={})
                with anyio.move_on_after(0.5):
                    await client.get_actor("any")

        children.start_soon(read_others)
        error: ServerFailed | None = None
        with anyio.move_on_after(1000):
            try:
                await client.get_items(DatasetId("broken"), offset=0, limit=1, query={})
            except ServerFailed as failed:
                error = failed
        children.cancel_scope.cancel()
    if ends_after_s is None:
        assert error is None
    else:
        assert error is not None
        assert ends_after_s[0] <= anyio.current_time() <= ends_after_s[1]


async def settled(api: ScriptedApi) -> Record:
    """Carry one job out that collects its items; return its record."""
    engine = Engine(api, WatchedLedger(), ListSource([make_job()]), output=output_plan("file"))
    (record,) = await engine.run()
    return record


async def test_a_run_whose_dataset_is_gone_is_no_success() -> None:
    """Its job is lost, with the Run that was paid for; another attempt would be paid again."""
    api = ScriptedApi(Plan(run_s=1, items=[{"a": 1}], cost_usd=0.5))
    api.errors["get_items"] = [api_error(404) for _ in range(100)]
    record = await settled(api)
    attempts: tuple[Attempt, ...] = record.attempts
    assert (record.outcome, record.cost_usd, [each.run_id for each in attempts]) == (Outcome.LOST, 0.5, ["run-1"])
    assert record.error is not None
    assert record.error.type == "output-gone"
    assert record.items is not None
    assert not record.items.is_complete
    assert len(api.posts) == 1


async def test_one_object_larger_than_the_budget_is_one_jobs_trouble() -> None:
    """Where this process has no memory for a smaller one, it ends, and the Run is collected by the next process."""
    api = ScriptedApi(Plan(run_s=1, items=[{"a": 1}]))
    api.errors["get_items"] = [AnswerTooLarge(1 << 30) for _ in range(100)]
    record = await settled(api)
    assert record.error is not None
    assert (record.outcome, record.error.type) == (Outcome.LOST, "output-unreadable")
    api.errors["get_items"] = [AnswerTooLarge(1 << 20) for _ in range(100)]
    with pytest.raises(ExceptionGroup) as ended:
        await settled(api)
    assert is_out_of_memory(ended.value)


async def test_an_output_without_an_end_is_one_jobs_trouble() -> None:
    """It is not read on until the memory is full, although no other answer waits for room."""
    api = ScriptedApi(Plan(run_s=1, output={"a": 1}))
    api.value_bytes = MAX_ALONE_BYTES + 1
    engine = Engine(api, WatchedLedger(), ListSource([make_job()]), output=output_plan(is_value_wanted=True))
    (record,) = await engine.run()
    assert (record.outcome, record.output) == (Outcome.SUCCEEDED, None)
    assert record.output_error is not None
    assert "cannot be read: the answer is too large" in record.output_error


async def test_an_answer_that_is_too_large_is_not_asked_for_again() -> None:
    """Through a proxy, too. The reader decides what to ask for."""
    client, session = client_of(lambda _: ITEM)
    with pytest.raises(AnswerTooLarge):
        await client.get_items(DatasetId("d"), offset=0, limit=1, query={}, fits=lambda size, _=0: size < 10)
    assert len(session.sent) == 1
    page = await client.get_items(DatasetId("d"), offset=0, limit=1, query={}, fits=lambda size, _=0: size <= 10)
    assert page.items == [{"a": 1}]


async def test_a_run_that_alone_stays_unreadable_is_given_up_by_who_follows_it_only() -> None:
    """Others are described meanwhile; without `gives_up` it is read for ever, as in an outage."""
    client, _ = client_of(lambda path: FAILED if "broken" in path else Response(data={"id": "r", "status": "RUNNING"}))

    async def read_others() -> None:
        while True:
            await client.get_run(RunId("other"))
            await anyio.sleep(1)

    async with anyio.create_task_group() as children:
        children.start_soon(read_others)
        for read in (client.get_run, client.abort_run):
            began_at = anyio.current_time()
            children.start_soon(client.abort_run, RunId("other"))
            with pytest.raises(ServerFailed):
                await read(RunId("broken"), gives_up=True)
            assert anyio.current_time() - began_at < 400
        with anyio.move_on_after(1000) as scope:
            await client.get_run(RunId("broken"))
        assert scope.cancelled_caught
        children.cancel_scope.cancel()


async def test_an_answer_without_memory_for_what_it_holds_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not parsed, and not asked for again: its reader asks for less."""
    monkeypatch.setattr(answers_of_the_api, "parsed_bytes", lambda _: 1 << 50)
    client, session = client_of(lambda _: Response(body=b'["' + b"x" * 100_000 + b'"]'))
    with pytest.raises(AnswerTooLarge, match="100,004 bytes"):
        await client.get_items(DatasetId("d"), offset=0, limit=1, query={}, fits=lambda *_: True)
    assert len(session.sent) == 1


async def test_what_a_body_holds_counts_and_not_only_its_size() -> None:
    """Millions of empty objects are short, and take 24 times as much memory."""
    body = b"[" + b"{}," * 100_000 + b"{}]"
    client, session = client_of(lambda _: Response(body=body, headers={"Content-Type": "application/json"}))
    asked: list[tuple[int, int]] = []

    def fits(body_bytes: int, parsed_bytes: int = 0) -> bool:
        asked.append((body_bytes, parsed_bytes))
        return parsed_bytes < 7 << 20

    with pytest.raises(AnswerTooLarge):
        await client.get_items(DatasetId("d"), offset=0, limit=1, query={}, fits=fits)
    with pytest.raises(AnswerTooLarge):
        await client.get_value(StoreId("s"), "OUTPUT", fits=fits)
    assert len(session.sent) == 2
    assert asked[-1][0] == len(body)
