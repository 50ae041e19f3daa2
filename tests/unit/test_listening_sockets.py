"""Sockets that listen: nobody else can, at any moment since they are bound."""

import errno
import socket
from contextlib import ExitStack, closing
from unittest import mock

import pytest

from batchrun.runtime.listening_sockets import listen_at_all, listening_socket
from batchrun.server import app


def _another(port: int) -> socket.socket:
    """Listen as any program does that may restart at its port."""
    return listening_socket(socket.AF_INET, ("127.0.0.1", port))


def test_another_program_cannot_listen_where_the_server_will() -> None:
    """It opens its database between, and takes over Runs: who listens meanwhile would have all its connections."""
    with ExitStack() as bound:
        listener, *_ = map(bound.enter_context, app._bind("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use"):
            _another(listener.getsockname()[1])


def test_who_was_faster_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between bind and listen another program can come; uvloop would go on without listening."""
    bind = socket.socket.bind
    with ExitStack() as stack:

        def bind_slowly(listener: socket.socket, address: tuple[str, int]) -> None:
            bind(listener, address)
            monkeypatch.undo()
            stack.enter_context(closing(_another(listener.getsockname()[1])))

        monkeypatch.setattr(socket.socket, "bind", bind_slowly)
        with pytest.raises(OSError, match="in use") as refused:
            listening_socket(socket.AF_INET, ("127.0.0.1", 0))
        assert refused.value.errno == errno.EADDRINUSE


def test_all_addresses_of_a_host_have_one_port() -> None:
    """A browser tries them one after the other."""
    known = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 0)) for n in (1, 2, 1)]
    with ExitStack() as stack:
        with mock.patch("socket.getaddrinfo", return_value=known):
            listeners = [stack.enter_context(each) for each in listen_at_all("both", 0)]
        names, ports = zip(*[each.getsockname() for each in listeners], strict=True)
        assert names == ("127.0.0.1", "127.0.0.2")
        assert len(set(ports)) == 1


def test_an_address_that_the_machine_lacks_is_left_out() -> None:
    """`localhost` is `::1` too, also in a container without IPv6. With no address at all, it cannot listen."""
    lacking = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))  # for documentation: RFC 5737
    known = [lacking, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    with mock.patch("socket.getaddrinfo", return_value=known):
        (listener,) = listen_at_all("some", 0)
    with closing(listener):
        assert listener.getsockname()[0] == "127.0.0.1"
    with mock.patch("socket.getaddrinfo", return_value=[lacking]), pytest.raises(OSError, match="assign"):
        listen_at_all("none", 0)
