"""Delivers a notification to a command: a program that gets it as JSON on stdin, and ends soon."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

import anyio
from anyio.abc import Process

from batchrun.notify.notification import Notification, Undelivered

#: Seconds that a command may take.
COMMAND_TIMEOUT_S = 30.0
#: Seconds in which stderr is read to its end after the command has ended.
_LAST_WORDS_S = 0.5
#: Max characters of stderr in a message.
_MAX_WORDS = 300
#: What a command inherits of the environment: what programs need to run, nothing that holds a secret of ours.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")


class CommandChannel:
    """A command.

    Args:
        command: program and arguments; no shell sees them.
        environ: a part of it is the command's environment.
    """

    name = "command"

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._command = list(command)
        self.target = self._command[0]
        self._environ = {name: environ[name] for name in _INHERITED if name in environ}

    async def deliver(self, notification: Notification) -> None:
        """Run the command once; at the end its whole process group is killed.

        Raises:
            Undelivered: it cannot be run, takes too long, or ends with another code than 0.
        """
        name = str((notification.batch or {}).get("name", ""))
        environ = {**self._environ, "NOTICE_EVENT": notification.event, "NOTICE_BATCH": name}
        try:
            process = await anyio.open_process(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environ,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise Undelivered(f"{self._command[0]} cannot be run: {reason}") from error
        words = bytearray()
        code: int | None = None
        try:
            with anyio.move_on_after(COMMAND_TIMEOUT_S):
                code = await _run(process, notification.as_json(), words)
        finally:
            _kill_group(process)
            with anyio.CancelScope(shield=True):
                await process.aclose()
        if code is None:
            raise Undelivered(f"{self._command[0]} did not end within {COMMAND_TIMEOUT_S:g} s and was killed")
        if code:
            said = " ".join(words.decode("utf-8", "replace").split())[-_MAX_WORDS:]
            raise Undelivered(f"{self._command[0]} ended with code {code}{f': {said}' if said else ''}")


async def _run(process: Process, body: bytes, words: bytearray) -> int:
    """Feed a process, keep the end of its stderr in `words`, and return its exit code."""
    is_read = anyio.Event()
    async with anyio.create_task_group() as children:

        async def feed() -> None:
            assert process.stdin is not None, "it was opened with a pipe"
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                await process.stdin.send(body)  # a command need not read it
                await process.stdin.aclose()

        async def listen() -> None:
            assert process.stderr is not None, "it was opened with a pipe"
            with contextlib.suppress(anyio.BrokenResourceError):
                async for piece in process.stderr:
                    words[:] = (words + piece)[-4 * _MAX_WORDS :]
            is_read.set()

        children.start_soon(feed)
        children.start_soon(listen)
        code = await process.wait()
        _kill_group(process)  # what it has left behind would hold stderr open
        with anyio.move_on_after(_LAST_WORDS_S):
            await is_read.wait()
        children.cancel_scope.cancel()
    return code


def _kill_group(process: Process) -> None:
    """Kill the process and all that it has started, but what has left its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
