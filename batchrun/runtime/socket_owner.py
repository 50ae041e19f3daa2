"""Which user's program has the other end of a connection within this machine, from Linux's kernel."""

import errno
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
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
_NOWHERE: dict[int, tuple[str, int]] = {socket.AF_INET: ("0.0.0.0", 0), socket.AF_INET6: ("::", 0)}  # noqa: S104 - nothing is bound there
#: Why a question fails that the kernel would answer at another time; ENOTCONN: the other end has gone.
_JUST_NOW = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.ENOTCONN}
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_MAPPED = "::ffff:"
_ALL_USERS = 0xFFFFFFFF


def owner_of_peer(connection: socket.socket | Any) -> int | None:
    """Return the user id of the program at the other end of a TCP connection; None: it is unknown.

    It is unknown of another machine, another network namespace (a container's), and where the kernel answers no such
    question. It waits for nothing. A server of root that gives its rights up later is root's.

    Raises:
        OSError: it cannot be asked just now, as with too many open files.
    """
    if sys.platform != "linux":
        return None
    family, own, peer = _ends(connection)
    try:
        with closing(
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)
        ) as kernel:
            device, is_here = 0, _is_of_this_machine(family, peer)
            for device in _devices(is_here=is_here):
                if (owner := _owner(kernel, family, peer, own, device, takes_listener=is_here)) is not None:
                    break
            else:
                return None
            # Older kernels say 0 of a connection that is not accepted yet; its listener's owner is right there, too.
            listening = _owner(kernel, family, peer, _NOWHERE[family], device)
    except OSError as error:
        if error.errno in _JUST_NOW:
            raise
        return None
    return listening if owner == 0 and listening is not None else owner


def owner_in_tables(connection: socket.socket | Any) -> int | None:
    """Return what `owner_of_peer` does, from the kernel's lists of all sockets (proc_net(5)). Blocks for milliseconds.

    It is for where the kernel answers no question, as in a unit with `RestrictAddressFamilies`. Listeners of several
    users at one port say nothing, since the lists do not tell which of them has the connection.

    Raises:
        OSError: they cannot be read just now, as with too many open files.
    """
    if sys.platform != "linux":
        return None
    family, own, peer = _ends(connection)
    try:
        if not _is_of_this_machine(family, peer):
            return None
        rows = [line.split() for table in _TABLES if table.exists() for line in table.read_text("ascii").splitlines()]
    except OSError as error:
        if error.errno in _JUST_NOW:
            raise
        return None
    here, there = _in_tables(family, peer), _in_tables(family, own)
    anywhere = _in_tables(family, (_NOWHERE[family][0], peer[1])) | _in_tables(socket.AF_INET6, ("::", peer[1]))
    owners = {int(row[7]) for row in rows if row[1] in here and row[2] in there}
    if owners <= {0}:
        owners |= {int(row[7]) for row in rows if row[3] == f"{_LISTEN:02X}" and row[1] in here | anywhere}
    return owners.pop() if len(owners) == 1 else None


def nameless_users() -> set[int]:
    """Return the user id that stands for all users without a number in this user namespace, if there are any. Blocks.

    In a container of a user without rights, the kernel gives it of every program of another user (user_namespaces(7)).
    """
    try:
        if Path("/proc/self/uid_map").read_text("ascii").split() == ["0", "0", str(_ALL_USERS)]:
            return set()
        return {int(Path("/proc/sys/kernel/overflowuid").read_text("ascii"))}
    except OSError:
        return set()


def _ends(connection: socket.socket | Any) -> tuple[int, Sequence[Any], Sequence[Any]]:
    """Return the family, this end and the other one; of IPv4 in the clothes of IPv6, as the kernel has it."""
    own, peer = connection.getsockname(), connection.getpeername()
    if not str(peer[0]).startswith(_MAPPED):
        return connection.family, own, peer
    own, peer = ((str(each[0]).removeprefix(_MAPPED), each[1]) for each in (own, peer))
    return socket.AF_INET, own, peer


def _in_tables(family: int, end: Sequence[Any]) -> set[str]:
    """Return how the lists of sockets write an address and port; a server for IPv6 and IPv4 is in the one for IPv6."""
    packed = socket.inet_pton(family, str(end[0]).partition("%")[0])
    forms = [packed, bytes(10) + b"\xff\xff" + packed] if family == socket.AF_INET else [packed]
    return {"".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", form)) + f":{end[1]:04X}" for form in forms}


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
