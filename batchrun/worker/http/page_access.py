"""What the live page sends instead of the worker's token: a key of this process, and signed links for what it opens.

The key is in the fragment of the page's address, which a browser never sends. The script keeps it in the tab's session
storage: no other port of the host sees it, as it would a cookie. It ends with the process, so that a program which
takes the port over learns nothing that it can use.
"""

import hmac
import secrets
from hashlib import sha256

import anyio

#: Seconds that a signed link is valid at least; at most twice as long. A page asks for new ones before that.
LINK_S = 300


class PageAccess:
    """The key of one process's page."""

    def __init__(self) -> None:
        self.key = secrets.token_urlsafe(24)

    def link(self, address: str) -> str:
        """Return the page's whole address."""
        return f"{address}/#key={self.key}"

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
