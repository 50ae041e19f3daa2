"""Which hosts are this machine, which addresses are of the internet, and a name that no page had before."""

import ipaddress
import secrets
from urllib.parse import urlsplit, urlunsplit

#: What browsers reach by a name under `localhost`: this machine, and all its addresses.
_LOCALHOST = frozenset({"127.0.0.1", "::1", "localhost", "0.0.0.0", "::"})  # noqa: S104 - nothing is bound here


def new_page_host() -> str:
    """Return a name of this machine for the page of one process.

    A browser keeps what a page leaves behind, a service worker say, by scheme, name and port: a program that had the
    port before may have left something for `127.0.0.1`, and nothing for this name.
    """
    return f"{secrets.token_hex(8)}.localhost"


def at_page_host(address: str, host: str) -> str:
    """Return an address of this machine with another name; any other address as it is, and one with https.

    No certificate is valid for a name that is made up.
    """
    parts = urlsplit(address)
    if parts.scheme != "http" or parts.hostname not in _LOCALHOST:
        return address
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host))


def is_loopback_host(host: str) -> bool:
    """True for `localhost`, names under it, and loopback addresses; False for a name that only looks like one."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_public(host: str) -> bool:
    """True for an address of the internet; False for loopback, private, link-local and other reserved ones."""
    address = ipaddress.ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_global and not address.is_multicast
