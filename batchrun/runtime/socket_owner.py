"""Which user's program has the other end of a connection within this machine, from Linux's kernel (sock_diag(7))."""

import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

#: linux/netlink.h and linux/sock_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
#: net/tcp_states.h
_LISTEN = 10
#: `struct nlmsghdr`, then `struct inet_diag_req_v2` and `struct inet_diag_msg` of linux/inet_diag.h, each with its
#: `struct inet_diag_sockid` of ports, addresses, interface and cookie.
_HEADER = struct.Struct("=IHHII")
_PORTS, _ADDRESSES, _REST = struct.Struct("!HH"), struct.Struct("16s16s"), struct.Struct("=I2I")
_REQUEST = struct.Struct("=BBBBI")
_ANSWER = struct.Struct("=BBBB48xIIIII")
_ANY_STATE = _ANY_COOKIE = 0xFFFFFFFF
_NOWHERE = {socket.AF_INET: ("0.0.0.0", 0), socket.AF_INET6: ("::", 0)}  # noqa: S104 - nothing is bound there


def owner_of_peer(connection: socket.socket | Any) -> int | None:
    """Return the user id of the program at the other end of a TCP connection; None: it is unknown.

    It is unknown of another machine, another network namespace (a container's), and where the kernel answers no such
    question. It waits for nothing. A server of root that gives its rights up later is root's.
    """
    if sys.platform != "linux":
        return None
    try:
        own, peer = connection.getsockname(), connection.getpeername()
        with closing(
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)
        ) as kernel:
            family, device, is_here = connection.family, 0, _is_of_this_machine(connection.family, peer)
            for device in _devices(is_here=is_here):
                if (owner := _owner(kernel, family, peer, own, device, takes_listener=is_here)) is not None:
                    break
            else:
                return None
            # Older kernels say 0 of a connection that is not accepted yet; its listener's owner is right there, too.
            listening = _owner(kernel, family, peer, _NOWHERE[family], device)
    except (OSError, KeyError):
        return None
    return listening if owner == 0 and listening is not None else owner


def _is_of_this_machine(family: int, peer: Sequence[Any]) -> bool:
    """Return whether a program here can have this address; the caller's own one may be another."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((peer[0], 0, *peer[2:]))
        except OSError:
            return False
    return True


def _devices(*, is_here: bool) -> list[int]:
    """Return the devices by which a socket may have to be asked for: one that is bound to a device is found by it only.

    What stays within the machine comes in by the loopback; one of its other addresses belongs to a device of its own.
    """
    loopback = socket.if_nametoindex("lo")
    others = [number for number, _ in socket.if_nameindex() if number != loopback] if is_here else []
    return [loopback, *others]


def _owner(
    kernel: socket.socket,
    family: int,
    local: Sequence[Any],
    remote: Sequence[Any],
    device: int,
    *,
    takes_listener: bool = True,
) -> int | None:
    """Return whose socket has these two ends; if none has, whose listens at the local one, unless that says nothing.

    A listener need not have a socket for each connection: with SYN cookies (tcp_syncookies) it makes one when the first
    data comes. Of another machine's address it says nothing: it listens at all addresses of this one.
    """
    ends = [socket.inet_pton(family, str(each[0]).partition("%")[0]) for each in (local, remote)]
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + _PORTS.pack(local[1], remote[1])
    body += _ADDRESSES.pack(*ends) + _REST.pack(device, _ANY_COOKIE, _ANY_COOKIE)
    kernel.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + body)
    answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None  # NLMSG_ERROR: there is no such socket
    _, state, _, _, _, _, _, uid, _ = _ANSWER.unpack_from(answer, _HEADER.size)
    return int(uid) if takes_listener or state != _LISTEN else None
