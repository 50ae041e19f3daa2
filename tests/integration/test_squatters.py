"""Another user's program that has taken a server's port gets no token from the server's clients."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager

import anyio
import anyio.to_thread
import psutil
import pytest
from anyio.abc import SocketAttribute
from pydantic import SecretStr

from batchrun.apify import transport
from batchrun.apify.client import open_client
from batchrun.errors import OutputError
from batchrun.model import RunId
from batchrun.policy.retry import Backoff
from batchrun.runtime.socket_owner import owner_in_tables, owner_of_peer
from batchrun.worker.token_file import Token
from batchrun.worker.worker_address import WorkerAddress
from batchrun.worker.worker_client import WorkerClient, WorkerUnreachable
from batchrun.worker.worker_client import open_client as open_client_of_worker
from tests.integration.test_token_safety import READ_RUN

NOBODY = 65534
#: Listens at a port, and prints what comes on each connection; answers with a Run.
SQUATTER = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=False)
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    if got := connection.recv(65536):
        print(got, flush=True)
        connection.sendall(ANSWER)
    connection.close()
""".replace("ANSWER", repr(READ_RUN.replace(b"Content-Length", b"Connection: close\r\nContent-Length")))

_NOT_ALLOWED = 77
#: A family of addresses that no kernel has.
_NO_FAMILY = 99
#: In a network namespace where each connection begins with a SYN cookie, a listener drops what completes it.
_WITH_SYN_COOKIES = f"""
import ctypes, fcntl, os, socket, struct, sys
from pathlib import Path
from batchrun.runtime.socket_owner import owner_of_peer
if ctypes.CDLL(None).unshare(0x40000000):
    sys.exit({_NOT_ALLOWED})
try:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))  # the loopback, up
    Path("/proc/sys/net/ipv4/tcp_syncookies").write_text("2")
except OSError:
    sys.exit({_NOT_ALLOWED})
os.seteuid({NOBODY})
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
os.seteuid(0)
program = b"".join(struct.pack("HBBI", *each) for each in (
    (0x30, 0, 0, 13), (0x45, 2, 0, 2), (0x80, 0, 0, 0), (0x25, 0, 1, 40), (6, 0, 0, 0xFFFFFFFF), (6, 0, 0, 0),
))  # takes what has SYN set or is longer than a TCP header
program = ctypes.create_string_buffer(program)
listener.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 6, ctypes.addressof(program)))
with socket.create_connection(listener.getsockname(), timeout=30) as connection:
    print(owner_of_peer(connection))
"""
#: In a user namespace that gives no other user a number, a client of a worker calls a port.
_WITHOUT_NUMBERS = f"""
import ctypes, sys
if ctypes.CDLL(None).unshare(0x10000000):
    sys.exit({_NOT_ALLOWED})
import anyio
from batchrun.worker.token_file import Token
from batchrun.worker.worker_address import WorkerAddress
from batchrun.worker.worker_client import open_client
async def call():
    async with open_client(WorkerAddress("http://127.0.0.1:" + sys.argv[1], Token("secret")), print) as client:
        try:
            await client.worker()
        except BaseException as error:
            print(error)
anyio.run(call)
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can run a program of another user"
)


@contextmanager
def squatter(port: int = 0, uid: int = NOBODY) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Let a program of a user listen; give its port, and it."""
    argv = [sys.executable, "-I", "-S", "-c", SQUATTER, str(port), str(uid)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process
        finally:
            process.kill()


@asynccontextmanager
async def server(port: int = 0) -> AsyncIterator[int]:
    """Answer each request with a Run, as this user; give the port."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(READ_RUN.replace(b"Content-Length", b"Connection: close\r\nContent-Length"))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    async with listener, anyio.create_task_group() as children:
        children.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        children.cancel_scope.cancel()


def open_worker_client(port: int) -> AbstractAsyncContextManager[WorkerClient]:
    """Open a client of the worker at a port of this machine."""
    return open_client_of_worker(WorkerAddress(f"http://127.0.0.1:{port}", Token("secret")), lambda _: None)


@contextmanager
def one_more_file() -> Iterator[None]:
    """Let this process open one file more, such as a connection."""
    with open("/dev/null", "rb") as lowest_free:  # noqa: PTH123 - its number is wanted
        limit = lowest_free.fileno() + 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    with anyio.fail_after(30):
        while not holds():  # noqa: ASYNC110 - a failed read wakes nobody here
            await anyio.sleep(0.01)


async def test_a_batch_sends_nothing_to_a_program_that_has_taken_its_servers_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says whose it is and waits, and goes on with the server that listens there again."""
    monkeypatch.setattr(transport, "READ_BACKOFF", Backoff(first_s=0.01, max_s=0.01))
    async with AsyncExitStack() as stack:
        async with server() as port:
            client = await stack.enter_async_context(
                open_client(f"http://localhost:{port}", SecretStr("apify_api_secret"), request_rate_per_s=1000)
            )
            await client.get_run(RunId("r"))
        children, has_answer = await stack.enter_async_context(anyio.create_task_group()), anyio.Event()

        async def read() -> None:
            await client.get_run(RunId("r"))
            has_answer.set()

        with squatter(port) as (_, taken):
            children.start_soon(read)
            await until(lambda: any("another user" in each for each in client.failed_reads))
            (failed,) = client.failed_reads
            assert failed == (
                f"no connection to localhost: a program of another user (nobody, uid {NOBODY}) has taken port {port},"
                " and nothing was sent to it; end it, or start the server at another port"
            )
            taken.kill()
            assert taken.communicate()[0] == ""
        async with server(port):
            await until(has_answer.is_set)


@pytest.mark.parametrize("answers", [True, False], ids=["netlink", "no netlink"])
async def test_a_server_may_run_as_another_user(monkeypatch: pytest.MonkeyPatch, *, answers: bool) -> None:
    """Whose it is when the client's first connection opens counts; a third user's program gets nothing later."""
    if not answers:  # as in a unit that may use addresses of the internet alone
        monkeypatch.setattr(socket, "AF_NETLINK", _NO_FAMILY)
    async with AsyncExitStack() as stack:
        with squatter() as (port, _):
            client = await stack.enter_async_context(open_worker_client(port))
            for _ in range(2):
                with pytest.raises(OutputError, match="not as a worker would"):
                    await client.worker()
        with squatter(port, NOBODY - 1) as (_, taken):
            with pytest.raises(WorkerUnreachable, match=f"uid {NOBODY - 1}.* has taken port {port}") as caught:
                await client.worker()
            assert not caught.value.was_sent
            taken.kill()
            assert taken.communicate()[0] == ""


async def test_while_it_cannot_be_asked_whose_program_answers_nothing_is_sent() -> None:
    """And what cannot be asked for lack of open files is not taken for the first answer."""
    async with AsyncExitStack() as stack:
        with squatter() as (port, _):
            client = await stack.enter_async_context(open_worker_client(port))
            with one_more_file(), pytest.raises(WorkerUnreachable, match="Too many open files") as caught:
                await client.worker()
            assert not caught.value.was_sent
            with pytest.raises(OutputError, match="not as a worker would"):
                await client.worker()
        with squatter(port, NOBODY - 1), pytest.raises(WorkerUnreachable, match=f"uid {NOBODY - 1}"):
            await client.worker()


def test_nothing_is_sent_where_all_other_users_are_one() -> None:
    """A user namespace without their numbers gives all of them the same one, and so may the client's own be."""
    with squatter() as (port, taken):
        argv = [sys.executable, "-c", _WITHOUT_NUMBERS, str(port)]
        called = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        if called.returncode == _NOT_ALLOWED:
            pytest.skip("a user namespace of one's own is not allowed here")
        assert "this user namespace does not tell of which" in called.stdout, called.stderr
        taken.kill()
        assert taken.communicate()[0] == ""


@pytest.mark.parametrize("whose", [owner_of_peer, owner_in_tables])
@pytest.mark.parametrize("device", ["", "lo"])
def test_the_kernel_knows_whose_program_answers(device: str, whose: Callable[[socket.socket], int | None]) -> None:
    """Also before the connection is accepted, of a server at all addresses, and of one that is bound to a device."""
    for host, family, address in (
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("127.0.0.1", socket.AF_INET, "::ffff:127.0.0.1"),
        ("::", socket.AF_INET6, "127.0.0.1"),
        ("::1", socket.AF_INET6, "::1"),
    ):
        os.seteuid(NOBODY)
        try:
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            if host == "::":
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((host, 0))
            listener.listen()
        finally:
            os.seteuid(0)
        with listener, socket.create_connection((address, listener.getsockname()[1])) as connection:
            assert whose(connection) == NOBODY
            with listener.accept()[0] as accepted:
                assert whose(accepted) == 0


async def test_the_kernel_knows_whose_program_answers_at_the_machine_s_own_addresses() -> None:
    """One that is bound to the device that has the address, too."""
    addresses = [
        (device.partition(":")[0], each.address)  # an alias has no device of its own
        for device, known in psutil.net_if_addrs().items()
        for each in known
        if each.family == socket.AF_INET
    ]
    for device, address in addresses:
        os.seteuid(NOBODY)
        try:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            listener.bind((address, 0))
            listener.listen()
        finally:
            os.seteuid(0)
        with listener, socket.create_connection(listener.getsockname(), timeout=60) as connection:
            assert owner_of_peer(connection) == NOBODY, device


def test_the_kernel_knows_whose_listener_has_no_socket_for_a_connection_yet() -> None:
    """With SYN cookies the client may send before there is one, and would be heard."""
    found = subprocess.run(
        [sys.executable, "-c", _WITH_SYN_COOKIES], capture_output=True, text=True, check=False, timeout=60
    )
    if found.returncode == _NOT_ALLOWED:
        pytest.skip("a network namespace of one's own is not allowed here")
    assert found.stdout == f"{NOBODY}\n", found.stderr
