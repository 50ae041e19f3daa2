"""A notification, and the two forms in which it is sent. Both are a public format: fields are only added."""

import socket
from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Self

import orjson

from batchrun.model import JsonObject
from batchrun.runtime.fast_dataclasses import dataclass

#: Version of the JSON form.
VERSION = 1
#: Max characters of the text.
MAX_TEXT_CHARS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """Something that happened to a batch, or to a worker, once."""

    #: The same in each try, and after a restart: a receiver can drop what it has.
    id: str
    #: One of `NotifyEvent`, or `test`.
    event: str
    #: In words, for people.
    text: str
    #: The batch: its name, its id at the worker, its directory; None: it is about all batches of a worker.
    batch: JsonObject | None = None
    #: What a program may want to know besides, by event.
    data: Mapping[str, Any] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    host: str = field(default_factory=socket.gethostname)

    def as_json(self) -> bytes:
        """Return the JSON form."""
        fields = {
            "v": VERSION,
            "id": self.id,
            "event": self.event,
            "at": self.at.isoformat(),
            "host": self.host,
            "batch": self.batch,
            "text": self.text[:MAX_TEXT_CHARS],
            "data": self.data,
        }
        return orjson.dumps(fields, default=str)

    def as_slack(self) -> bytes:
        """Return the form of an incoming webhook of Slack, whose texts mark up `&`, `<` and `>` only."""
        text = self.text[:MAX_TEXT_CHARS]
        for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(sign, entity)
        return orjson.dumps({"text": f"{text} ({self.host})"})

    @classmethod
    def from_json(cls, stored: bytes) -> Self:
        """Return a notification from its JSON form.

        Raises:
            ValueError: it is none.
        """
        try:
            fields = orjson.loads(stored)
            fields.pop("v")
            return cls(**{**fields, "at": datetime.fromisoformat(fields["at"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("is no notification") from error


class Undelivered(Exception):
    """A channel has not taken a notification; the text says why, without any secret."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        #: True if another try would end the same.
        self.is_final = is_final
