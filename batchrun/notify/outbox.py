"""The notifications that are not delivered yet, on disk: a small file each, so that a killed process loses none."""

import hashlib
import re
from contextlib import suppress
from pathlib import Path

import structlog

from batchrun.notify.notification import Notification
from batchrun.output.sink import explaining, sync_directory
from batchrun.runtime.held_directory import held
from batchrun.runtime.own_signature import is_own, sign
from batchrun.runtime.private_files import read_private

#: Max notifications that wait; further ones are dropped.
MAX_WAITING = 1000
_OWN_NAME = re.compile(r"[0-9a-f]{32}\.json")

_log = structlog.get_logger()


class Outbox:
    """A directory of notifications. Its methods block: call them in a thread.

    Args:
        directory: where they are.
        is_signed: True if only what this user has stored there is delivered: somebody else may have supplied the
            directory, and what stands in it would go out in this user's name.
    """

    def __init__(self, directory: Path, *, is_signed: bool = False) -> None:
        self._directory = directory
        self._is_signed = is_signed

    def put(self, notification: Notification) -> None:
        """Store a notification; it is durable when this returns.

        Raises:
            OutputError: it cannot be stored.
        """
        with explaining(self._directory):
            is_new = not self._directory.exists()
            content = notification.as_json()
            with held(self._directory.parent) as parent, parent.within(self._directory.name, makes=True) as outbox:
                signed = b"%b\n%b" % (content, sign(content).encode())
                outbox.replace(self._file(notification).name, signed, is_durable=True)
            if is_new:
                sync_directory(self._directory.parent)

    def remove(self, notification: Notification) -> None:
        """Forget a notification. If its file stays, the next process delivers it once more."""
        with suppress(OSError):
            self._file(notification).unlink(missing_ok=True)

    def load(self) -> list[Notification]:
        """Return what earlier processes have left, oldest first; damaged files are removed, and others left alone."""
        found = []
        with suppress(OSError):
            for file in self._directory.iterdir():
                if not _OWN_NAME.fullmatch(file.name):
                    continue  # a person may call a directory of his own `outbox`
                try:
                    found.append(self._stored_in(file))
                except OSError:
                    continue  # no file, or it cannot be read now
                except ValueError as error:
                    _log.warning("notification_unreadable", file=str(file), reason=str(error))
                    file.unlink(missing_ok=True)
        return sorted(found, key=lambda each: each.at)[:MAX_WAITING]

    def _stored_in(self, file: Path) -> Notification:
        content, _, signature = read_private(file).partition(b"\n")
        if self._is_signed and not is_own(content, signature.decode("utf-8", "replace")):
            raise ValueError("is not of this user")
        return Notification.from_json(content)

    def _file(self, notification: Notification) -> Path:
        digest = hashlib.sha256(notification.id.encode()).hexdigest()[:32]
        return self._directory / f"{digest}.json"
