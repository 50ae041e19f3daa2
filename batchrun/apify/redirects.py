"""Which redirects of reads are followed: the platform may keep large values and logs at another address.

From https a redirect leads to https only: nobody on the way can choose what is read. From plain http it leads to no
address of this machine or of a private network, unless the platform itself is at one.
"""

import socket
from collections.abc import Mapping
from typing import Any

import yarl

from batchrun.apify.connections import open_socket
from batchrun.runtime.loopback import is_public

#: Max redirects of one read.
MAX_REDIRECTS = 10
_STATUSES = frozenset({301, 302, 303, 307, 308})


def redirect_of(url: yarl.URL, status: int, headers: Mapping[str, str]) -> yarl.URL | None:
    """Return where an answer redirects a read to; None: nowhere, or where it must not lead."""
    location = headers.get("Location")
    if status not in _STATUSES or not location:
        return None
    try:
        target = url.join(yarl.URL(location)).with_fragment(None)
        is_allowed = bool(target.host) and target.scheme in ("https", url.scheme)
        return target.with_user(None) if is_allowed else None
    except ValueError:
        return None


class NearbySockets:
    """Makes the sockets for a platform that is reached by plain http, and for what it redirects to."""

    def __init__(self) -> None:
        #: Whether the first address, which is the platform's, is of the internet; None: there is none yet.
        self._is_public: bool | None = None

    def open_socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Make a socket for a resolved address.

        Raises:
            OSError: The platform is in the internet, and the address is not.
        """
        host = str(address[4][0])
        if self._is_public is None:
            self._is_public = is_public(host)
        if self._is_public and not is_public(host):
            raise OSError(0, f"a redirect leads to {host}, which is no address of the internet: it is not followed")
        return open_socket(address)
