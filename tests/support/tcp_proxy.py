"""A TCP proxy on loopback, as a network that can be cut both ways or one way, and that can be slow."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class TcpProxy:
    """Carries connections to a port. While it is cut, bytes wait, as in a network; `heal` delivers them late."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: Seconds that bytes take each way.
        self.delay_s = 0.0
        #: When each HTTP request came, on the clock of `time.monotonic`.
        self.requests: list[float] = []
        self._requests_pass, self._answers_pass = threading.Event(), threading.Event()
        self._open: set[socket.socket] = set()
        self.heal()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, ways: str) -> None:
        """Hold back "requests", "answers" or "both"."""
        if ways in ("requests", "both"):
            self._requests_pass.clear()
        if ways in ("answers", "both"):
            self._answers_pass.clear()

    def heal(self) -> None:
        """Deliver what was held back, and carry on."""
        self._requests_pass.set()
        self._answers_pass.set()

    def close(self) -> None:
        """Close all connections."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.heal()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open |= {near, far}
                threading.Thread(target=self._carry_both_ways, args=[near, far], daemon=True).start()

    def _carry_both_ways(self, near: socket.socket, far: socket.socket) -> None:
        answers = threading.Thread(target=self._carry, args=[far, near, self._answers_pass], daemon=True)
        answers.start()
        self._carry(near, far, self._requests_pass)
        answers.join()
        self._open -= {near, far}
        near.close()
        far.close()

    def _carry(self, begin: socket.socket, end: socket.socket, may_pass: threading.Event) -> None:
        with suppress(OSError):
            while data := begin.recv(1 << 16):
                if may_pass is self._requests_pass:
                    self.requests += [time.monotonic()] * data.count(b" HTTP/1.1\r\n")
                time.sleep(self.delay_s)
                may_pass.wait()
                end.sendall(data)
            end.shutdown(socket.SHUT_WR)


@contextmanager
def proxy_to(port: int) -> Iterator[TcpProxy]:
    """Open a proxy to a port."""
    with contextlib.closing(TcpProxy(port)) as proxy:
        yield proxy
