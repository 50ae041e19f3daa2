"""What the live page sends instead of the worker's token: a key of this process, and signed links for what it opens.

The page's address has a ticket in its fragment, which a browser never sends, and may keep in its history. The script
gives the ticket, once, for the key, and keeps that in the tab's session storage: no other port of the host sees it, as
it would a cookie. The script gives it to other tabs of the same address, through a channel of the browser that no other
origin joins; nothing is stored beyond these tabs. The key ends with the process, so that a program which takes the port
over learns nothing that it can use; and what it leaves in the browser is for the name at which it was opened, while the
page of each process has another one.
"""

import hmac
import secrets
from collections import deque
from hashlib import sha256

import anyio

from batchrun.runtime.loopback import at_page_host, new_page_host

#: Seconds that a signed link is valid at least; at most twice as long. A page asks for new ones before that.
LINK_S = 300
#: Max links to the page that nobody has opened; the oldest is forgotten.
MAX_TICKETS = 20


class PageAccess:
    """The key of one process's page."""

    def __init__(self) -> None:
        self.key = secrets.token_urlsafe(24)
        #: The page's name on this machine.
        self.host = new_page_host()
        self._tickets: deque[str] = deque(maxlen=MAX_TICKETS)

    def ticket(self) -> str:
        """Return what can be given for the key, once."""
        self._tickets.append(secrets.token_urlsafe(24))
        return self._tickets[-1]

    def take_ticket(self, shown: str) -> bool:
        """Return whether this is a ticket, which is worth nothing from now on."""
        found = [each for each in self._tickets if hmac.compare_digest(shown.encode("utf-8", "replace"), each.encode())]
        for each in found:
            self._tickets.remove(each)
        return bool(found)

    def link(self, address: str) -> str:
        """Return an address that opens the page, once; a loopback address by the name that only this page has."""
        return f"{at_page_host(address, self.host)}/#key={self.ticket()}"

    def is_key(self, shown: str) -> bool:
        """Return whether this is the page's key."""
        return hmac.compare_digest(shown.encode("utf-8", "replace"), self.key.encode())

    def sign(self, batch_id: str) -> str:
        """Return the query with which the output of a batch can be read for a while, by a link without a header."""
        until = (int(anyio.current_time()) // LINK_S + 2) * LINK_S
        return f"until={until}&signature={self._signature(batch_id, str(until))}"

    def is_signed(self, batch_id: str, until: str, signature: str) -> bool:
        """Return whether the query of a link is one of `sign`, for this batch, and still valid."""
        expected = self._signature(batch_id, until)
        is_genuine = hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode())
        return is_genuine and anyio.current_time() < int(until)

    def _signature(self, batch_id: str, until: str) -> str:
        return hmac.new(self.key.encode(), f"{batch_id}\n{until}".encode("utf-8", "replace"), sha256).hexdigest()
