"""The output files of a directory that follows a shared log."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from batchrun.errors import LedgerError, OutputError
from batchrun.ledger.shared_commits import FileGrowth
from batchrun.output.layout import SHARED
from batchrun.output.sink import Sink
from batchrun.runtime.free_space import has_room

#: Bytes that are gathered at most, but for one piece more.
MAX_WAITING_BYTES = 16 << 20


class FollowedFiles:
    """Files that grow as the log says; opening them cuts them to their committed lengths.

    Args:
        directory: of the batch.
        lengths: that are committed, by name; missing ones are 0.
    """

    def __init__(self, directory: Path, lengths: Mapping[str, int]) -> None:
        """Open the files.

        Raises:
            OutputError: One cannot be opened, or is shorter than committed.
        """
        self._directory = directory
        self._sinks: dict[str, Sink] = {}
        #: Length of each file with what is not flushed yet.
        self.lengths: dict[str, int] = {}
        #: Bytes that are not flushed yet.
        self.waiting = 0
        try:
            for name in SHARED:
                self._sinks[name] = Sink(directory / name, lengths.get(name))
                self.lengths[name] = self._sinks[name].length
        except BaseException:
            self.close()
            raise

    def append(self, entry: int, growths: Mapping[str, FileGrowth]) -> None:
        """Gather what an entry appends; much of it is flushed already.

        Raises:
            LedgerError: It does not continue the files, or is damaged.
            OutputError: The disk is full or fails.
        """
        for name, growth in growths.items():
            if self.lengths.get(name) != growth.offset:
                raise LedgerError(f"entry {entry} of the shared log does not continue {name}")
            for piece in chain((growth.data,), growth.pieces):
                self._sinks[name].write(piece)
                self.lengths[name] += len(piece)
                self.waiting += len(piece)
                if self.waiting > MAX_WAITING_BYTES:
                    self.flush()

    def flush(self) -> None:
        """Append and sync what was gathered.

        Raises:
            OutputError: The disk is full or fails.
        """
        if not has_room(self._directory, self.waiting):
            raise OutputError(f"{self._directory}: the disk is too full to follow the shared log; free some space")
        for sink in self._sinks.values():
            sink.flush()
        self.waiting = 0

    def cut(self, lengths: Mapping[str, int]) -> None:
        """Cut the files back to earlier lengths: what was written since is not committed."""
        for name, sink in self._sinks.items():
            sink.cut(lengths[name])
        self.lengths, self.waiting = dict(lengths), 0

    def close(self) -> None:
        """Close the files, and drop what was not flushed."""
        for sink in self._sinks.values():
            sink.close()
