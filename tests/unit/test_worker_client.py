"""A worker that does not answer is reported, once per request."""

import anyio

from batchrun.worker.worker_client import WorkerClient


async def test_a_silent_worker_is_reported_within_five_seconds() -> None:
    """An answer ends the silence; the next request without one is reported again."""
    said: list[tuple[float, str]] = []
    client = WorkerClient(None, lambda: None)  # type: ignore[arg-type, return-value]  # nothing is sent
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
