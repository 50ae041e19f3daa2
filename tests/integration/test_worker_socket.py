"""Commands on the worker's machine reach it by a socket in its data directory, and nobody else."""

import os
import socket
import stat
import threading
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from batchrun.errors import ConfigError, OutputError
from batchrun.worker import local_socket
from batchrun.worker.local_socket import bind_local_socket, short_path
from batchrun.worker.worker_address import find_worker
from batchrun.worker.worker_client import open_client
from tests.support.command_line import batchrun
from tests.support.worker_process import WorkerProcess

#: No platform is needed: no batch is run.
NOWHERE = "http://127.0.0.1:1"


def test_a_program_that_takes_a_killed_workers_port_never_gets_its_token(tmp_path):
    """The address in the files of the killed worker leads to that program; the socket leads nowhere."""
    worker = WorkerProcess(tmp_path / "data", NOWHERE)
    with worker.running() as process:
        mode = (worker.data_dir / "socket").stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        process.kill()
    with socket.create_server(("127.0.0.1", int(worker.address.rpartition(":")[2]))) as other:
        came: list[bytes] = []
        other.settimeout(30)

        def listen() -> None:
            connection, _ = other.accept()
            with connection:
                came.append(connection.recv(1 << 16))

        listener = threading.Thread(target=listen)
        listener.start()
        said = batchrun("worker", "list", "--data", "data", cwd=tmp_path)
        assert said.code != 0
        assert "data/socket does not answer" in said.err
        assert "`batchrun worker start` resumes it" in said.err
        with socket.create_connection(other.getsockname()) as connection:
            connection.sendall(b"the test itself")
        listener.join()
        assert came == [b"the test itself"]


def test_files_called_address_and_socket_that_are_somebodys_own_are_left_alone(tmp_path):
    """`--data .` names a directory with anything in it; the worker would replace them, and remove them at its end."""
    for name in ("address", "socket"):
        (tmp_path / name).write_text("street 5")
    start = ("worker", "start", "--data", ".", "--port", "0", "--api-url", NOWHERE)
    said = batchrun(*start, cwd=tmp_path, environ={"APIFY_TOKEN": "any"})
    assert (said.code, "address: no worker has written it; move it away" in said.err) == (6, True), said
    assert [(tmp_path / name).read_text() for name in ("address", "socket")] == ["street 5"] * 2


def test_a_worker_that_stops_leaves_no_address_and_a_killed_one_is_replaced(tmp_path):
    """Nobody is led to where it was; the next one listens at the same path."""
    worker = WorkerProcess(tmp_path / "data", NOWHERE)
    with worker.running() as process:
        process.kill()
    with worker.running() as process:
        assert batchrun("worker", "list", "--data", "data", cwd=tmp_path).code == 0
        assert (worker.data_dir / "address").read_text().strip() == worker.address
        assert worker.ask("/v1/worker", Authorization="")[0] == 401, "the network needs the token"
        process.terminate()
        assert process.wait(60) == 0
    assert [(worker.data_dir / name).exists() for name in ("socket", "address", "token")] == [False, False, True]
    said = batchrun("worker", "list", "--data", "elsewhere", cwd=tmp_path)
    assert (said.code, "no worker was ever started here" in said.err) == (2, True)


def test_a_link_to_a_page_that_others_can_read_on_the_way_comes_with_a_warning(tmp_path):
    """The key for the page opens what the token does."""
    worker = WorkerProcess(tmp_path / "data", NOWHERE)
    with worker.running():
        for address, warns in ((worker.address, False), ("http://192.0.2.9:8421", True)):
            (worker.data_dir / "address").write_text(f"{address}\n")
            said = batchrun("worker", "page", "--data", "data", cwd=tmp_path)
            assert (said.code, "gets its key over plain HTTP" in said.err) == (0, warns), said.err


def test_nothing_is_sent_to_a_socket_that_another_user_may_have_made(tmp_path):
    """Batch files and overrides would be his, and the results his invention."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "token").touch()
    with bind_local_socket(data / "socket"):
        assert find_worker(data, None, {}).socket == data / "socket"
        data.chmod(0o770)
        with pytest.raises(ConfigError, match=r"data: other users can write to it, .*nothing was sent to the worker"):
            find_worker(data, None, {})
        data.chmod(0o700)
        if os.geteuid() != 0:
            return  # only root can give a file away
        os.chown(data / "socket", 54321, 54321)
        with pytest.raises(ConfigError, match=r"socket: it belongs to another user"):
            find_worker(data, None, {})
        os.chown(data, 54321, 54321)  # root asks the worker of a service
        assert find_worker(data, None, {}).socket == data / "socket"
        tmp_path.chmod(0o1777)
        with pytest.raises(ConfigError, match=r"data: another user has made it .*nothing was sent to the worker"):
            find_worker(data, None, {})


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="a socket has no other path there")
async def test_a_request_goes_to_the_directory_that_was_looked_at(tmp_path, blockbuster):
    """Who may write to the directory around it could exchange it meanwhile, and would get the batch."""
    blockbuster.deactivate()
    for name in ("data", "his"):
        (tmp_path / name).mkdir(mode=0o700)
        (tmp_path / name / "token").touch()
    with (
        closing(bind_local_socket(tmp_path / "data/socket")) as own,
        closing(bind_local_socket(tmp_path / "his/socket")) as his,
    ):
        for each in (own, his):
            each.listen()
            each.setblocking(False)
        async with open_client(find_worker(tmp_path / "data", None, {}), print) as client:
            (tmp_path / "data").rename(tmp_path / "kept")
            (tmp_path / "his").rename(tmp_path / "data")
            async with anyio.create_task_group() as children:
                children.start_soon(client.notify)
                with anyio.fail_after(30):
                    await anyio.wait_readable(own)
                with pytest.raises(BlockingIOError):
                    his.accept()
                children.cancel_scope.cancel()


def test_a_long_path_of_the_data_directory_is_no_obstacle(tmp_path):
    """The address of a socket holds 108 bytes."""
    worker = WorkerProcess(tmp_path / "long" / ("d" * 120) / ("e" * 120), NOWHERE)
    with worker.running():
        said = batchrun("worker", "status", "--data", str(worker.data_dir), cwd=tmp_path)
        assert said.code == 0, said.err


def test_a_path_that_is_too_long_for_this_system_is_named(tmp_path, monkeypatch):
    """Where open files have no path, as on macOS."""
    monkeypatch.setattr(local_socket, "_OPEN_FILES", tmp_path / "missing")
    file = tmp_path / ("d" * 120) / "socket"
    with (
        pytest.raises(OutputError, match="too long for a socket's path; use a --data of at most 93 bytes"),
        short_path(file),
    ):
        pass


def test_another_file_in_the_place_of_the_socket_stays(tmp_path):
    """The worker says so in its log, and its commands need --url."""
    (tmp_path / "socket").write_text("mine")
    with pytest.raises(OSError, match="in use"):
        bind_local_socket(tmp_path / "socket")
    assert (tmp_path / "socket").read_text() == "mine"
