"""Sockets that listen for connections of TCP."""

import errno
import socket
from typing import Any

#: Of an address that this machine does not have, such as `::1` of `localhost` in a container without IPv6.
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
#: Max connections that wait to be accepted, as asyncio's default.
_BACKLOG = 100


def listening_socket(
    family: int, address: tuple[Any, ...], *, backlog: int = _BACKLOG, is_dual: bool = True
) -> socket.socket:
    """Return a socket that listens; connections wait until they are accepted.

    It listens at once: on Linux, another user's program may bind an address that is bound already, and listen there
    first. It then has all connections, and uvloop ignores the error of the second `listen`.

    Args:
        family: of addresses.
        address: as `bind` takes it.
        backlog: max connections that wait.
        is_dual: at all addresses of IPv6, it listens at those of IPv4 too, unless the system is set otherwise.

    Raises:
        OSError: another program has the port, or the address is none of this machine.
    """
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not is_dual:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def listen_at_all(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen at all addresses of a host that this machine has, at one port. Blocks.

    Raises:
        OSError: another program has the port at one of them, the machine has none of them, or the host is unknown.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, (name, _, *rest) in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                listeners.append(listening_socket(family, (name, port, *rest), is_dual=False))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                missing = error
            else:
                port = listeners[0].getsockname()[1]
        if not listeners and missing is not None:
            raise missing
    except OSError:
        for each in listeners:
            each.close()
        raise
    return listeners
