"""A store in memory, for the logs of a fleet."""

from collections.abc import Iterator

from batchrun.errors import LogUnreachable
from batchrun.ledger.shared_log.log_store import LogStore


class PageLog(LogStore):
    """A log in memory, whose next answer can be lost, and which can be out of reach for readers."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.objects: dict[str, bytes] = {}
        self.loses_answer = False
        self.is_down = False

    def append(self, number: int, entry: bytes) -> bool:
        """Append an entry."""
        if number != len(self.entries):
            return False
        self.entries.append(entry)
        if self.loses_answer:
            self.loses_answer = False
            raise LogUnreachable("lost")
        return True

    def read(self, number: int) -> bytes | None:
        """Return an entry."""
        if self.is_down:
            raise LogUnreachable("down")
        return self.entries[number] if number < len(self.entries) else None

    def read_from(self, number: int) -> Iterator[bytes]:
        """Yield the entries from one on."""
        if self.is_down:
            raise LogUnreachable("down")
        yield from self.entries[number:]

    def put_object(self, name: str, content: bytes) -> None:
        """Store an object."""
        self.objects[name] = content

    def get_object(self, name: str) -> bytes | None:
        """Return an object."""
        return self.objects.get(name)

    def has_later(self, number: int) -> bool:
        """Return True if there is an entry with a higher number."""
        return number + 1 < len(self.entries)

    def caution(self) -> str:
        """Return that it is only a test's."""
        return "it is in memory"
