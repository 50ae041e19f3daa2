"""The log of a fleet's pages: how a page is read, replaced, and skipped if it is damaged.

Entry N + 1 replaces entry N. It is appended only if there is none yet, so a member changes the page that it has read,
or none.

An entry that is no page stops all members, since it may be a damaged one by which a member has got more. That member
knows what it has written, and goes on from there at its next beat. If none does, the entry is skipped, and the page
before it counts again.
"""

from contextlib import suppress

import orjson
import structlog
import zstandard
from pydantic import ValidationError

from batchrun.errors import LedgerError
from batchrun.ledger.shared_log.log_store import LogStore
from batchrun.runtime.bounded_zstd import decompress_bounded
from batchrun.runtime.steady_time import boot_time
from batchrun.worker.fleet.fleet_members import MAX_WORDS, Page
from batchrun.worker.fleet.takeover import SILENT_LEASES

#: Name of the page's log within the fleet's place.
PAGE_LOG = "page"
#: Max entries in a row that are skipped.
MAX_SKIPPED = 100
#: Max numbers between two pages that are looked at: whoever may write to the store can leave out some of the numbers in
#: between, but lead no member to numbers that are too large for a page within fewer than 2^30 entries.
_MAX_STEP = 1 << 20
#: Max bytes of a page.
_MAX_BYTES = 16 << 20

_log = structlog.get_logger()


class PageDamaged(LedgerError):
    """The newest entry is no page, and is not skipped yet."""


class SharedPage:
    """The log of pages. Methods block; one thread at a time calls them.

    Raises:
        LogUnreachable: The store does not answer. A page may have been written all the same: `read` shows it.
        PageDamaged: The newest entry is no page, and is not skipped yet.
        LedgerError: A newer batchrun has written it, or too many entries are no pages.
    """

    def __init__(self, store: LogStore) -> None:
        self._store = store
        #: Of the last page that was read, or -1.
        self.number = -1
        self.page = Page()
        #: An entry that is no page, and when it was seen first.
        self._damaged = (-1, 0.0)

    def read(self) -> Page:
        """Return the newest page."""
        newest, encoded = self.number, None
        step = 1
        while (found := self._store.read(newest + step)) is not None:  # pages have all numbers up to the newest
            newest, encoded = newest + step, found
            step = min(2 * step, _MAX_STEP)
        while step > 1:
            step //= 2
            if (found := self._store.read(newest + step)) is not None:
                newest, encoded = newest + step, found
        if encoded is not None:
            page = self._page_at(newest, encoded)
            self.number, self.page = newest, page
        return self.page

    def _page_at(self, number: int, encoded: bytes) -> Page:
        """Return the page of an entry, or the one that counts instead of it."""
        try:
            return _decode(encoded)
        except ValueError as error:
            reason = (
                f"entry {number} of the page of the fleet cannot be read: {' '.join(str(error).split())[:MAX_WORDS]}"
            )
        before = self._page_before(number, reason)
        if self._damaged[0] != number:
            self._damaged = (number, boot_time())
        wait_s = SILENT_LEASES * max((member.lease_s for member in before.members.values()), default=0.0)
        if boot_time() - self._damaged[1] < wait_s:
            raise PageDamaged(f"{reason}. It is skipped after {wait_s:g} s, unless the worker that wrote it goes on")
        _log.error("fleet_page_skipped", entry=number, reason=reason)
        return before

    def _page_before(self, number: int, reason: str) -> Page:
        for earlier in range(number - 1, max(self.number, number - 1 - MAX_SKIPPED), -1):
            if (encoded := self._store.read(earlier)) is not None:
                with suppress(ValueError):
                    return _decode(encoded)
        if number - 1 - MAX_SKIPPED > self.number:
            raise LedgerError(f"{reason}, nor can the {MAX_SKIPPED} before it; start with another --fleet")
        return self.page

    def replace(self, page: Page) -> bool:
        """Write a page in place of the one that was read last; False: it is not the newest any more."""
        encoded = zstandard.compress(orjson.dumps(page.model_dump(mode="json", exclude_defaults=True)))
        if not self._store.append(self.number + 1, encoded):
            return False
        self.number, self.page = self.number + 1, page
        return True


def _decode(encoded: bytes) -> Page:
    """Return the page that some bytes hold.

    Raises:
        ValueError: They are none.
        LedgerError: A newer batchrun has written it.
    """
    try:
        return Page.model_validate_json(decompress_bounded(encoded, _MAX_BYTES))
    except ValidationError as error:
        for each in error.errors(include_url=False, include_context=False):
            if each["loc"] == ("v",) and isinstance(each["input"], int) and each["input"] > 1:
                raise LedgerError("the page of the fleet was written by a newer batchrun; use that one") from error
        raise
