"""Which hosts are this machine, which addresses are of the internet, and a name that no page had before."""

import errno
import ipaddress
import secrets
import socket
from collections.abc import Collection
from urllib.parse import urlsplit, urlunsplit

#: What browsers reach by a name under `localhost`.
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
#: Where a process that listens at all addresses is reached from its own machine.
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here
#: Where a process listens that listens there.
_LOCALHOST = _LOOPBACK | _REACHED_AT.keys()
#: The part of IPv6 that is given out. Beyond it lie loopback, link-local, site-local and translated addresses.
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
#: What a NAT64 gateway translates to the IPv4 address in the last 32 bits.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def new_page_host() -> str:
    """Return a name of this machine for the page of one process.

    A browser keeps what a page leaves behind, a service worker say, by scheme, name and port: a program that had the
    port before may have left something for `127.0.0.1`, and nothing for this name.
    """
    return f"{secrets.token_hex(8)}.localhost"


def hold_loopback(hosts: Collection[str], port: int) -> list[socket.socket]:
    """Take a port at the loopback addresses at which a page's process does not listen, until the sockets are closed.

    A browser looks for a name under `localhost` at `::1` and at `127.0.0.1`, whichever first. Any user of this machine
    could listen where the process does not, and get the key in the link. Nothing listens there: a browser is refused,
    and turns to the other address.

    Args:
        hosts: the addresses at which the process listens.
        port: at which it listens.

    Raises:
        OSError: another program has it.
    """
    held: list[socket.socket] = []
    for family, own, every in ((socket.AF_INET, "127.0.0.1", "0.0.0.0"), (socket.AF_INET6, "::1", "::")):  # noqa: S104 - nothing is bound there
        if own in hosts or every in hosts or _LOCALHOST.isdisjoint(hosts):
            continue
        try:
            other = socket.socket(family)
            held.append(other)
            other.bind((own, port))  # without SO_REUSEADDR, by which others could bind it as well
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # nobody can listen there
                for each in held:
                    each.close()
                where = f"[{own}]:{port}" if ":" in own else f"{own}:{port}"
                raise OSError(error.errno, f"{error.strerror} at {where}, where browsers look for its page") from error
    return held


def reachable(host: str) -> str:
    """Return where on its own machine a process is reached that listens at an address, as a URL has it."""
    host = _REACHED_AT.get(host, host)
    return f"[{host}]" if ":" in host else host


def at_page_host(address: str, host: str) -> str:
    """Return a loopback address with another name; any other address as it is, and one with https.

    No certificate is valid for a name that is made up. A process that listens at all addresses may be in a container:
    the name would lead to loopback addresses of its host, where it cannot keep others from listening. It has one of its
    own loopback addresses instead.
    """
    parts = urlsplit(address)
    if parts.scheme != "http" or parts.hostname not in _LOCALHOST:
        return address
    name = host if parts.hostname in _LOOPBACK else reachable(parts.hostname)
    return urlunsplit(parts._replace(netloc=f"{name}:{parts.port}" if parts.port else name))


def network_of(address: str) -> str:
    """Return the addresses that one caller can have at will: all of this machine, or a network of IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    if parsed.is_loopback:
        return "loopback"
    return str(parsed if parsed.version == 4 else ipaddress.ip_network((parsed, 64), strict=False))


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
    """True for an address of the internet; False for loopback, private, link-local and other reserved ones.

    An IPv6 address that stands for an IPv4 one is judged by that, or refused.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        is_translated = address in _NAT64
        within = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if is_translated else address.ipv4_mapped
        if within is None and (address not in _GLOBAL_IPV6 or address.sixtofour or address.teredo):
            return False
        address = within or address
    return address.is_global and not address.is_multicast
