"""A batch notifies a real receiver, and holds up neither its jobs nor its end for it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from batchrun import load_config, open_batch, run_batch
from batchrun.config import Config
from batchrun.notify import delivery
from batchrun.server import InlineContext, Server, ServerSettings, open_server
from tests.support.command_line import batchrun
from tests.support.webhook_receiver import receiving

ACTOR = "test/worker"
TOKEN = "test-token"


async def work(context: InlineContext) -> None:
    """Fail if the input says so."""
    if context.input.get("fails"):
        context.fail(7, "told to fail")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server."""
    settings = ServerSettings(
        data_dir=tmp_path / "api", token=TOKEN, max_concurrent_runs=100, inline_actors={ACTOR: work}
    )
    async with open_server(settings) as opened:
        yield opened


def config_of(directory: Path, server: Server, jobs: list[dict[str, Any]], **settings: Any) -> Config:
    """Return the configuration of a batch with these jobs."""
    file = directory / "jobs.jsonl"
    file.write_bytes(b"".join(orjson.dumps(job) + b"\n" for job in jobs))
    flags = {
        "api.base_url": server.base_url,
        "task.actor": ACTOR,
        "task.name": "test",
        "task.options": {"memory_mb": 128},
        "jobs.file": str(file),
        "output.dir": str(directory / "shop.out"),
        "retry.max_attempts": 1,
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    return load_config(flags=flags, environ={})


def files_with(directory: Path, text: str) -> list[str]:
    """Return the files that hold a text."""
    files = (file for file in directory.rglob("*") if file.is_file())
    return [file.name for file in files if text.encode() in file.read_bytes()]


async def test_a_batch_that_trips_and_one_that_finishes_are_notified_once(tmp_path: Path, server: Server) -> None:
    """The URL of the webhook stands in no file of the batch."""
    jobs = [{"n": n, "fails": n < 3} for n in range(10)]
    async with receiving() as receiver:
        environ = {"APIFY_TOKEN": TOKEN, "BATCHRUN_NOTIFY_URL": receiver.url}
        config = config_of(tmp_path, server, jobs, breaker__max_failed=3, limits__max_concurrent_runs=1)
        await run_batch(config, environ=environ)
        assert receiver.events == ["tripped"]
        for _ in range(2):
            await run_batch(config_of(tmp_path, server, jobs, breaker__max_failed="off"), environ=environ)
    assert receiver.events == ["tripped", "finished"]
    finished = receiver.received[1].fields
    assert finished["batch"] == {"name": "shop", "id": None, "dir": str(tmp_path / "shop.out")}
    assert finished["data"].pop("cost_usd") >= 0
    assert finished["data"] == {"reason": "", "settled": 10, "succeeded": 7, "left": 0, "items": 0}
    assert files_with(tmp_path / "shop.out", "s3cret-path") == []


async def test_a_dead_receiver_holds_up_no_batch_and_gets_its_notification_later(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end waits `CLOSE_WAIT_S` at most; the next process delivers what is left, with nothing else to do."""
    monkeypatch.setattr(delivery, "CLOSE_WAIT_S", 0.3)
    config = config_of(tmp_path, server, [{"n": n} for n in range(5)])
    async with receiving() as gone:
        environ = {"APIFY_TOKEN": TOKEN, "BATCHRUN_NOTIFY_URL": gone.url}
    with anyio.fail_after(60):
        summary = await run_batch(config, environ=environ)
    assert summary.has_succeeded
    assert len(list((tmp_path / "shop.out" / "outbox").iterdir())) == 1
    assert files_with(tmp_path / "shop.out", "s3cret-path") == []
    async with receiving(port=int(gone.url.split(":")[2].split("/")[0])) as receiver:
        await run_batch(config, environ=environ)
    assert receiver.events == ["finished"]
    assert list((tmp_path / "shop.out" / "outbox").iterdir()) == []


async def test_a_batch_on_a_full_disk_starts_nothing_and_says_so(tmp_path: Path, server: Server) -> None:
    """Not even the first Run."""
    config = config_of(tmp_path, server, [{"n": 1}], limits__min_free_disk_mb=1 << 40)
    async with receiving() as receiver:
        environ = {"APIFY_TOKEN": TOKEN, "BATCHRUN_NOTIFY_URL": receiver.url}
        async with open_batch(config, environ=environ) as batch, anyio.create_task_group() as children:
            children.start_soon(batch.run)
            await receiver.until(1)
            assert (receiver.events, batch.progress.started) == (["disk_low"], 0)
            batch.stop_starting()


def test_a_batch_file_shows_who_is_notified_and_tests_it(tmp_path: Path) -> None:
    """A test that is not taken is said with its reason; the URL and the arguments of the command are not shown."""
    (tmp_path / "shop.toml").write_text(
        '[task]\nid = "a"\n[jobs]\nfile = "x.jsonl"\n[notify]\nurl_file = "url"\ncommand = ["false", "s3cret"]\n'
    )
    (tmp_path / "url").write_text("http://127.0.0.1:9/s3cret\n")
    shown = batchrun("notify", "shop.toml", cwd=tmp_path)
    assert shown.out.splitlines()[:2] == ["webhook  127.0.0.1", "command  false"]
    tested = batchrun("notify", "shop.toml", "--test", cwd=tmp_path)
    assert tested.code == 6
    assert tested.out.splitlines()[:2] == [
        "webhook  127.0.0.1: no connection to 127.0.0.1: Connection refused",
        "command  false: false ended with code 1",
    ]
    assert "s3cret" not in f"{shown}{tested}"
    nobody = batchrun("notify", "shop.toml", "--set", "notify.command=[]", "--set", "notify.url_file=", cwd=tmp_path)
    assert (nobody.code, "notify" in nobody.err) == (2, True)
