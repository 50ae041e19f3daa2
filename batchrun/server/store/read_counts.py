"""How often storages are read: counted in memory and kept now and then, since a read must not cost a write."""


class ReadCounts:
    """Reads and lists since they were last taken, by storage id."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}

    def note(self, storage_id: str, *, reads: int = 0, lists: int = 0) -> None:
        """Count."""
        known = self._counts.get(storage_id, (0, 0))
        self._counts[storage_id] = (known[0] + reads, known[1] + lists)

    def take(self) -> dict[str, tuple[int, int]]:
        """Return the counts, and begin again at 0."""
        counts, self._counts = self._counts, {}
        return counts
