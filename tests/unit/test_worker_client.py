"""A worker that does not answer is reported, once per request."""

from typing import cast

import anyio
import pytest

from batchrun.cli.worker_submit_command import submit_batch
from batchrun.errors import OutputError
from batchrun.worker.worker_address import WorkerAddress
from batchrun.worker.worker_client import WorkerClient, WorkerUnreachable


async def test_a_silent_worker_is_reported_within_five_seconds() -> None:
    """An answer ends the silence; the next request without one is reported again."""
    said: list[tuple[float, str]] = []
    client = WorkerClient(None, WorkerAddress("http://worker"))  # type: ignore[arg-type]  # nothing is sent
    async with anyio.create_task_group() as children:
        children.start_soon(client.report_silence, lambda words: said.append((anyio.current_time(), words)))
        for silence_s in (60, 2, 60):
            client._asked = ("http://worker", anyio.current_time())
            await anyio.sleep(silence_s)
            client._asked = None
            await anyio.sleep(1)
        children.cancel_scope.cancel()
    words = "the worker at http://worker has not answered for 4 s; still waiting"
    assert [each for _, each in said] == [words, words]
    assert said[0][0] < 5
    assert 64 < said[1][0] < 69


@pytest.mark.parametrize(("was_sent", "error"), [(True, OutputError), (False, WorkerUnreachable)])
async def test_a_submission_whose_answer_is_lost_names_the_key_that_repeats_it(
    was_sent: bool, error: type[Exception]
) -> None:
    """With the key the same command runs the batch once; a request that was not sent needs none."""

    class Lost:
        async def submit(self, *_: object, **__: object) -> None:
            raise WorkerUnreachable("no answer", was_sent=was_sent)

    with pytest.raises(error) as raised:
        await submit_batch({}, None, "my-key", False, False, False, False, False, "", cast("WorkerClient", Lost()))
    assert ("--key my-key" in str(raised.value)) is was_sent
