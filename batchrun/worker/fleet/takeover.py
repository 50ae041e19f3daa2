"""Who takes what on the page: which member replaces one that fell silent or has left, and which takes a waiting batch.

A member that falls silent is replaced once the others have seen no change of it for 1.5 of its leases. It starts
nothing more after one.
"""

from collections.abc import Collection, Sequence

from batchrun.worker.fleet.fleet_limits import Resource
from batchrun.worker.fleet.fleet_members import Member, Page

#: A member changes the page at least this often, as a part of its lease.
BEAT_PART = 1 / 3
#: A member is replaced once it has been silent for this many leases, and an entry that is no page is skipped.
SILENT_LEASES = 1.5
#: Seconds for which the member with the fewest batches comes first, when one is to be taken,
PATIENCE_S = 1.0
#: unless it has not been heard of for this part of its lease, which is two beats: it may be dead as well.
QUIET_PART = 2 * BEAT_PART


class Takeover:
    """What one member knows of the others, and what it takes by that. Times are those of `boot_time`.

    Args:
        member_id: of this process.
        predecessor: id of the process that had the same directory before; it is dead.
    """

    def __init__(self, member_id: str, predecessor: str) -> None:
        self._id = member_id
        self._predecessor = predecessor
        #: Beat of each member, and when it was first seen; later by the time in which the page could not be read.
        self._seen: dict[str, tuple[int, float]] = {}
        #: When the page was read last, or could not be read.
        self._looked_at = float("-inf")
        #: Since when a batch waits for an owner, or a member that has left for its successor.
        self._waits_since: dict[str, float] = {}
        self._gone: frozenset[str] = frozenset()

    def is_gone(self, member_id: str) -> bool:
        """True if a member has been on the page and was replaced."""
        return member_id in self._gone

    def see(self, page: Page, now: float) -> None:
        """Note which members have changed since the last look."""
        self._looked_at = now
        self._gone |= self._seen.keys() - page.members.keys()
        self._seen = {
            each: seen if (seen := self._seen.get(each)) is not None and seen[0] == member.beat else (member.beat, now)
            for each, member in page.members.items()
        } | {each: self._seen[each] for each in self._seen.keys() - page.members.keys()}

    def hear_nothing(self, now: float) -> None:
        """Count the time since the last look as nobody's silence: the page could not be read, and nobody heard."""
        unread_s, self._looked_at = now - self._looked_at, now
        self._seen = {each: (beat, min(now, at + unread_s)) for each, (beat, at) in self._seen.items()}

    def heritage(self, page: Page, now: float, refused: Collection[str]) -> list[str]:
        """Return the members that this one replaces now."""
        free = [
            each
            for each, member in page.members.items()
            if each != self._id
            and self._is_free(each, member, now)
            and not (member.batches and member.batches.keys() <= set(refused))
        ]
        counts = {
            each: len(member.batches)
            for each, member in page.members.items()
            if each not in free and (each == self._id or not self._is_silent(each, member, now, QUIET_PART))
        }
        counts.setdefault(self._id, 0)
        heritage = []
        for each in sorted(free):
            first = min(counts, key=lambda member: (counts[member], member))
            counts[first] += len(page.members[each].batches)
            is_late = now - self._waits_since.setdefault(each, now) >= PATIENCE_S
            if first == self._id or each == self._predecessor or is_late:
                heritage.append(each)
        return heritage

    def _is_free(self, member_id: str, member: Member, now: float) -> bool:
        """True if a member surely starts nothing more."""
        if member.has_left or member_id == self._predecessor:
            return True
        is_silent = self._is_silent(member_id, member, now, SILENT_LEASES)
        if not is_silent:
            self._waits_since.pop(member_id, None)
        return is_silent

    def _is_silent(self, member_id: str, member: Member, now: float, leases: float) -> bool:
        """True if no change of a member was seen for so many of its leases."""
        seen = self._seen.get(member_id)
        return seen is not None and seen[0] == member.beat and now - seen[1] >= leases * member.lease_s

    def takes(
        self, page: Page, now: float, waiting: Sequence[str], wanted: Collection[str], has: int, max_batches: int
    ) -> list[str]:
        """Return the waiting batches that this worker takes: its part of all, and what nobody has taken for a while."""
        self._waits_since = {
            each: since for each, since in self._waits_since.items() if each in page.members or each in waiting
        }
        active = [each for each, member in page.members.items() if not member.has_left] or [self._id]
        carried = sum(len(member.batches) for member in page.members.values())
        part = -(-(carried + len(waiting)) // len(active))
        runs = page.limit(Resource.RUNS)
        busy = sum(1 for each, member in page.members.items() if member.batches and each != self._id)
        if has == 0 and runs is not None and busy >= runs:
            part = 0  # there is no Run for this worker, as long as the others have batches
        taken: list[str] = []
        for each in waiting:
            is_late = now - self._waits_since.setdefault(each, now) >= 2 * PATIENCE_S and part > 0
            if each in wanted or (has + len(taken) < max_batches and (is_late or has + len(taken) < part)):
                taken.append(each)
        return taken
