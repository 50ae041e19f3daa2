"""Commands for a worker, whose port another program has: what it answers takes bounded memory, and leads nowhere."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import orjson
import pytest
from anyio.abc import SocketStream
from pydantic import ValidationError

from batchrun.errors import BatchrunError, ConfigError, OutputError
from batchrun.worker import worker_client
from batchrun.worker.status_views import BatchView
from batchrun.worker.token_file import Token
from batchrun.worker.worker_address import WorkerAddress
from batchrun.worker.worker_client import WorkerClient, open_client

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ENDLESS = HEAD + b"Content-Length: 1000000000000\r\n\r\n"
#: The max bytes of an answer in these tests.
MAX_BYTES = 1 << 20


def whole(body: bytes, head: bytes = HEAD) -> bytes:
    """Return an answer with its length."""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Impostor:
    """Answers each request with the same bytes."""

    def __init__(self, answer: bytes, then: bytes = b"") -> None:
        self.url = ""
        self.requests: list[bytes] = []
        self.sent = 0
        self._answer, self._then = answer, then

    async def serve(self, stream: SocketStream) -> None:
        """Answer a request; after the answer, send `then` again and again."""
        async with stream:
            try:
                self.requests.append(await stream.receive())
                await stream.send(self._answer)
                while self._then:
                    await stream.send(self._then)
                    self.sent += len(self._then)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return


@asynccontextmanager
async def asking(impostor: Impostor) -> AsyncIterator[WorkerClient]:
    """Open a client of an impostor."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    impostor.url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
    async with listener, anyio.create_task_group() as children:
        children.start_soon(listener.serve, impostor.serve)
        async with open_client(WorkerAddress(impostor.url, Token("the-token")), print) as client:
            yield client
        children.cancel_scope.cancel()


async def asked(answer: bytes, ask: Callable[[WorkerClient], Any], then: bytes = b"") -> tuple[BatchrunError, Impostor]:
    """Return the error of a client that got an answer, and the impostor that gave it."""
    impostor = Impostor(answer, then)
    async with asking(impostor) as client:
        with pytest.raises(BatchrunError) as raised:
            await ask(client)
    return raised.value, impostor


@pytest.mark.parametrize("head", [ENDLESS, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_an_answer_without_an_end_is_read_up_to_a_bound(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    """The connection is closed then; a process that reads on is ended by its memory."""
    monkeypatch.setattr(worker_client, "MAX_ANSWER_BYTES", MAX_BYTES)
    then = b"10000\r\n" + b"[" * 0x10000 + b"\r\n" if b"chunked" in head else b"[" * 0x10000
    error, impostor = await asked(head, lambda client: client.worker(), then)
    assert isinstance(error, OutputError)
    assert "not as a worker would" in str(error)
    assert impostor.sent < 32 * MAX_BYTES  # what the kernel's buffers hold comes on top


@pytest.mark.parametrize("body", [
    b"<html>", b"[]", b"{}", b"null", b"\xff", b"[" * 200_000, b'{"a":' * 5000, b'{"page_url": 1, "version": null}',
])  # fmt: skip
async def test_an_answer_of_another_program_is_an_error_in_words(body: bytes) -> None:
    """Whatever the method expects; nesting ends no process."""
    for ask in (
        lambda client: client.worker(),
        lambda client: client.batch("x"),
        lambda client: client.page_link("127.0.0.1:1"),
        lambda client: client.cost("x", "day"),
        lambda client: client.plan({}, None),
        *([lambda client: client.report("x")] if body == b"\xff" else []),
    ):
        error, _ = await asked(whole(body), ask)
        assert "not as a worker would" in str(error)


def test_a_batch_s_id_is_no_path() -> None:
    """A report is written to a file that is named for it."""
    with pytest.raises(ValidationError) as raised:
        BatchView.model_validate({"id": "../x"})
    assert [each["type"] for each in raised.value.errors() if each["loc"] == ("id",)] == ["string_pattern_mismatch"]


async def test_a_page_has_its_own_name_on_the_worker_s_machine_alone() -> None:
    """A tunnel's end at 127.0.0.1 leaves ::1 free, where a browser looks for the name first."""
    async with asking(Impostor(whole(b'{"key": "once", "host": "x.localhost"}'))) as client:
        assert await client.page_link("http://127.0.0.1:8421") == "http://127.0.0.1:8421/#key=once"


async def test_the_token_follows_no_redirect() -> None:
    """Nor does a job file: another server may not be meant to see either."""
    other = Impostor(whole(b"{}"))
    async with asking(other):
        head = b"HTTP/1.1 307 Moved\r\nLocation: " + other.url.encode() + b"/v1/worker\r\n"
        error, _ = await asked(whole(b"", head), lambda client: client.worker())
    assert "answers 307, not as a worker would" in str(error)
    assert other.requests == []


async def test_a_compressed_answer_is_not_decompressed() -> None:
    """Some KB could be some GB."""
    error, impostor = await asked(
        whole(b"\x1f\x8b", HEAD + b"Content-Encoding: gzip\r\n"), lambda client: client.worker()
    )
    assert "not as a worker would" in str(error)
    assert b"accept-encoding: identity" in impostor.requests[0].lower()


async def test_a_long_refusal_is_cut() -> None:
    """Its message is printed."""
    body = orjson.dumps({"error": {"message": "x" * 900_000}})
    error, _ = await asked(whole(body, b"HTTP/1.1 400 Bad\r\n"), lambda client: client.worker())
    assert isinstance(error, ConfigError)
    assert len(str(error)) <= 20_000


@pytest.mark.parametrize("head", [b"X: " + b"y" * 100_000 + b"\r\n", b"X-1: y\r\n" * 100_000])
async def test_headers_without_an_end_are_refused(head: bytes) -> None:
    """They are read before the body."""
    error, _ = await asked(HEAD + head, lambda client: client.worker(), then=head)
    assert "does not answer" in str(error)
