"""Shards: the jobs of one job file, divided by their keys among several batches."""

from hashlib import sha256

from batchrun.model import BadLine, Job
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a job file. A key is always in the same part, and so are all lines with that key."""

    #: From 1.
    number: int = 1
    count: int = 1

    def has(self, entry: Job | BadLine) -> bool:
        """Return whether a job, by its key, or a bad line, by its number, belongs to this part.

        Batches are divided by this rule for as long as they last: it must never change.
        """
        if self.count == 1:
            return True
        if isinstance(entry, BadLine):
            return entry.position.line % self.count == self.number - 1
        return int.from_bytes(sha256(entry.key.encode()).digest()[:8]) % self.count == self.number - 1
