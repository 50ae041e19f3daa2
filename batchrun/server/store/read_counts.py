"""Counts reads of storages in memory; they are stored now and then, since a read must not cost a write."""


class ReadCounts:
    """Reads and lists since they were last taken, by storage id."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}

    def note(self, storage_id: str, *, reads: int = 0, lists: int = 0) -> None:
        known = self._counts.get(storage_id, (0, 0))
        self._counts[storage_id] = (known[0] + reads, known[1] + lists)

    def take(self) -> dict[str, tuple[int, int]]:
        counts, self._counts = self._counts, {}
        return counts
