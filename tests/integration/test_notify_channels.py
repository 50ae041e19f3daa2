"""A webhook and a command get a notification: signed, bounded in time, with nothing secret in a message."""

import base64
import hashlib
import hmac
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import orjson
import pytest

from batchrun.config.notify_settings import NotifyConfig
from batchrun.errors import ConfigError
from batchrun.notify import command_channel
from batchrun.notify.delivery import Notifier, delivering, open_channels
from batchrun.notify.notification import Notification, Undelivered
from batchrun.notify.outbox import Outbox
from tests.support.webhook_receiver import WebhookReceiver, receiving
from tests.support.worker_life import until

KEY = b"k" * 32
KEY_TEXT = f"whsec_{base64.b64encode(KEY).decode()}"
NOTICE = Notification(
    id="n-1", event="tripped", text="The breaker <b> & co", batch={"name": "shop"}, data={"group": None}, host="h"
)


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    """A receiver."""
    async with receiving() as found:
        yield found


def environ(receiver: WebhookReceiver, **more: str) -> dict[str, str]:
    """The environment that names a receiver."""
    return {**os.environ, "BATCHRUN_NOTIFY_URL": receiver.url, **more}


async def test_a_call_is_signed_with_its_id_and_its_time(receiver: WebhookReceiver) -> None:
    """A receiver checks the signature by three lines, as the page on notifications shows."""
    (channel,) = open_channels(NotifyConfig(), environ(receiver, BATCHRUN_NOTIFY_KEY=KEY_TEXT))
    await channel.deliver(NOTICE)
    (call,) = receiver.received
    signed = f"{call.headers['webhook-id']}.{call.headers['webhook-timestamp']}.".encode() + call.body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert call.headers["webhook-signature"] == f"v1,{expected}"
    assert call.headers["webhook-id"] == "n-1"
    assert call.fields == {
        "v": 1,
        "id": "n-1",
        "event": "tripped",
        "at": NOTICE.at.isoformat(),
        "host": "h",
        "batch": {"name": "shop"},
        "text": "The breaker <b> & co",
        "data": {"group": None},
    }
    assert Notification.from_json(call.body) == NOTICE


async def test_slack_gets_a_text_without_markup(receiver: WebhookReceiver) -> None:
    """Names of jobs and reasons of the platform cannot mention a channel or make a link."""
    (channel,) = open_channels(NotifyConfig(kind="slack"), environ(receiver))
    await channel.deliver(NOTICE)
    assert receiver.received[0].fields == {"text": "The breaker &lt;b&gt; &amp; co (h)"}


@pytest.mark.parametrize(("status", "is_final"), [(404, True), (302, True), (429, False), (503, False)])
async def test_a_refusal_shows_the_status_and_no_url(receiver: WebhookReceiver, status: int, is_final: bool) -> None:
    """A redirect is not followed: it could lead to this machine. 429 and 5xx may pass."""
    receiver.statuses = [status]
    (channel,) = open_channels(NotifyConfig(), environ(receiver))
    with pytest.raises(Undelivered, match=f"^127.0.0.1 answered with status {status}$") as raised:
        await channel.deliver(NOTICE)
    assert raised.value.is_final is is_final
    assert len(receiver.received) == 1


async def test_a_receiver_that_is_gone_is_named_without_its_url() -> None:
    """The URL of a webhook is a secret: who knows it can call it."""
    async with receiving() as gone:
        pass
    (channel,) = open_channels(NotifyConfig(), environ(gone))
    with pytest.raises(Undelivered, match=r"^no connection to 127\.0\.0\.1: ") as raised:
        await channel.deliver(NOTICE)
    assert "s3cret" not in str(raised.value)


async def test_a_command_gets_the_notification_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON on stdin, the event in a variable, arguments as they are: no shell expands them."""
    monkeypatch.setenv("APIFY_TOKEN", "apify_api_secret")
    program = (
        "import json, os, sys; json.dump([sys.argv[2], json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))"
    )
    config = NotifyConfig(command=[sys.executable, "-c", program, str(tmp_path / "got"), "$HOME; *"])
    (channel,) = open_channels(config, os.environ)
    await channel.deliver(NOTICE)
    argument, fields, variables = orjson.loads((tmp_path / "got").read_bytes())
    assert argument == "$HOME; *"
    assert fields == orjson.loads(NOTICE.as_json())
    assert (variables["NOTICE_EVENT"], variables["NOTICE_BATCH"]) == ("tripped", "shop")
    assert "apify_api_secret" not in str(variables)


async def test_a_command_that_fails_says_its_code_and_its_last_words() -> None:
    """A person who sets a command up sees why it does not work."""
    (channel,) = open_channels(NotifyConfig(command=["sh", "-c", "echo no such pager >&2; exit 3"]), os.environ)
    with pytest.raises(Undelivered, match=r"^sh ended with code 3: no such pager$"):
        await channel.deliver(NOTICE)
    (channel,) = open_channels(NotifyConfig(command=["/no/such/program"]), os.environ)
    with pytest.raises(Undelivered, match=r"^/no/such/program cannot be run: No such file or directory$"):
        await channel.deliver(NOTICE)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_command_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    """Its group is killed when it has ended, and when its time is over; a child that holds stderr delays nothing."""
    monkeypatch.setattr(command_channel, "COMMAND_TIMEOUT_S", 0.5)
    script = f"sleep 600 & echo $! > {tmp_path / 'pid'}; {'exit 0' if ends else 'wait'}"
    (channel,) = open_channels(NotifyConfig(command=["sh", "-c", script]), os.environ)
    if ends:
        await channel.deliver(NOTICE)
    else:
        with pytest.raises(Undelivered, match=r"^sh did not end within 0\.5 s and was killed$"):
            await channel.deliver(NOTICE)
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not _is_running(pid), "the end of what the command has started", limit_s=10)


def _is_running(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has read does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("URL", "file:///etc/passwd", "must be an address like"),
        ("URL", "https://exa mple.com/s3cret", "must be an address like"),
        ("KEY", "s3cret", "must be whsec_ followed by Base64"),
        ("KEY", "whsec_czNjcmV0", "must be whsec_ followed by Base64"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_without_showing_it(name: str, value: str, words: str) -> None:
    """Before anything starts, not when the first notification is due."""
    given = {"BATCHRUN_NOTIFY_URL": "https://example.com/hook", f"BATCHRUN_NOTIFY_{name}": value}
    with pytest.raises(ConfigError, match=words) as raised:
        open_channels(NotifyConfig(), given)
    assert value not in str(raised.value)


async def test_what_is_not_delivered_is_delivered_by_the_next_process(
    tmp_path: Path, receiver: WebhookReceiver
) -> None:
    """With the same id; a notification that was taken is sent by nobody again."""
    receiver.statuses = [500]
    config = NotifyConfig(events=["tripped"])
    channels = open_channels(config, environ(receiver))
    notifier = Notifier(config, channels, Outbox(tmp_path / "outbox"))
    async with delivering(notifier):
        await notifier.send(NOTICE)
        await notifier.send(Notification(id="n-2", event="finished", text="not wanted"))
        await receiver.until(1)
    for _ in range(2):
        notifier = Notifier(config, channels, Outbox(tmp_path / "outbox"))
        async with delivering(notifier):
            await notifier.wait_a_moment()
            assert notifier.waiting == 0
    assert [each.fields["id"] for each in receiver.received] == ["n-1", "n-1"]


async def test_tests_that_are_asked_for_together_are_made_one_after_another(tmp_path: Path) -> None:
    """Each may run a program, and whoever has the worker's token may ask for one: 40 would run at once."""
    noted = tmp_path / "noted"
    config = NotifyConfig(command=["sh", "-c", f"echo begun >> {noted}; sleep 0.1; echo ended >> {noted}"])
    notifier = Notifier(config, open_channels(config, dict(os.environ)), Outbox(tmp_path / "outbox"))
    async with anyio.create_task_group() as children:
        for _ in range(3):
            children.start_soon(notifier.test)
    assert noted.read_text() == "begun\nended\n" * 3


class _SlowOutbox(Outbox):
    """Returns what it has read once it is told to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.may_return = threading.Event()
        self.may_return.set()

    def load(self) -> list[Notification]:
        found = super().load()
        self.may_return.wait()
        return found


async def test_what_is_delivered_while_the_outbox_is_read_is_delivered_once(
    tmp_path: Path, receiver: WebhookReceiver
) -> None:
    """Other channels read the outbox for what earlier processes have left; what waits goes on meanwhile."""
    outbox, config = _SlowOutbox(tmp_path / "outbox"), NotifyConfig()
    async with receiving() as refuses:
        refuses.statuses = [503] * 100
        notifier = Notifier(config, open_channels(config, environ(refuses)), outbox)
        async with delivering(notifier), anyio.create_task_group() as children:
            await notifier.send(NOTICE)
            await refuses.until(1)
            outbox.may_return.clear()
            try:
                children.start_soon(notifier.change, config, open_channels(config, environ(receiver)))
                await receiver.until(1)
                await until(lambda: not notifier.waiting, "delivered")
            finally:
                outbox.may_return.set()
        assert not notifier.waiting
    assert [call.fields["id"] for call in receiver.received] == [NOTICE.id]
