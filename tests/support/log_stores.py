"""Real stores of shared logs on loopback: a directory, NATS servers, and emulators of S3 and Azure's buckets."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import anyio
from nats import connect

from batchrun.errors import LogUnreachable
from batchrun.ledger.shared_log.log_store import open_store
from batchrun.ledger.shared_log.nats_store import parts_of

#: Seconds for which a store may begin.
_BEGINS_IN_S = 30.0


@dataclass
class Store:
    """A store that runs; each log has a name of its own in it."""

    url: str
    #: What its clients need in their environment.
    environ: Mapping[str, str] = field(default_factory=dict)
    #: Of its only server; 0: there is none, or more than one.
    port: int = 0
    #: Its servers by their names.
    servers: Mapping[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def through(self, port: int) -> "Store":
        """Return the same store behind a proxy's port."""
        environ = {name: value.replace(f":{self.port}", f":{port}") for name, value in self.environ.items()}
        return Store(self.url.replace(f":{self.port}", f":{port}"), environ, port)

    def log(self, name: str) -> str:
        """Return the URL of a log, whose directory is created if it has one."""
        url = self.url.format(name=name)
        if url.startswith("file://"):
            Path(url.removeprefix("file://")).mkdir(parents=True, exist_ok=True)
        return url


@contextmanager
def directory(path: Path) -> Iterator[Store]:
    """A directory; each log in it must be created first."""
    yield Store(f"file://{path}/{{name}}")


@contextmanager
def nats(path: Path, servers: int = 1) -> Iterator[Store]:
    """NATS servers with JetStream; three of them are a cluster."""
    program = Path(sys.executable).with_name("nats-server")
    ports = [free_port() for _ in range(servers)]
    routes = [free_port() for _ in range(servers)]
    with ExitStack() as stack:
        processes = {}
        for n, (port, route) in enumerate(zip(ports, routes, strict=True)):
            home = path / f"nats-{n}"
            home.mkdir(parents=True)
            command = [str(program), "-js", "-sd", str(home), "-a", "127.0.0.1", "-p", str(port), "-n", f"server-{n}"]
            if servers > 1:
                others = ",".join(f"nats://127.0.0.1:{each}" for each in routes)
                command += ["-cluster", f"nats://127.0.0.1:{route}", "-cluster_name", "logs", "-routes", others]
            processes[f"server-{n}"] = stack.enter_context(_running(command, path / f"nats-{n}.txt"))
        for port in ports:
            _wait_for_port(port)
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        url = f"nats://{addresses}/{{name}}?replicas={servers}"
        store = Store(url, port=ports[0] if servers == 1 else 0, servers=processes)
        _wait_for_leader(store)
        yield store


def _wait_for_leader(store: Store) -> None:
    """Wait until the servers have agreed who leads them."""
    deadline = time.monotonic() + _BEGINS_IN_S
    while True:
        try:
            with open_store(store.log("first")):
                return
        except LogUnreachable:
            assert time.monotonic() < deadline, "the servers have no leader"


def leader_of(store: Store, name: str) -> str:
    """Return the name of the server that leads a log's stream."""
    servers, stream, _, _ = parts_of(store.log(name))

    async def ask() -> str:
        client = await connect(servers)
        try:
            found = await client.jetstream().stream_info(stream)
        finally:
            await client.close()
        assert found.cluster is not None
        assert found.cluster.leader is not None
        return found.cluster.leader

    return anyio.run(ask)


@contextmanager
def s3(path: Path) -> Iterator[Store]:
    """Moto's S3."""
    port = free_port()
    path.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, path / "s3.txt"):
        _wait_for_port(port)
        address = f"http://127.0.0.1:{port}"
        with urlopen(Request(f"{address}/batches", method="PUT"), timeout=30):
            pass
        keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "us-east-1"}
        yield Store("s3://batches/{name}", {**keys, "AWS_ENDPOINT": address}, port)


def has_azurite() -> bool:
    """True if Azure's emulator is installed: `npm install -g azurite`."""
    return shutil.which("azurite-blob") is not None


@contextmanager
def azure(path: Path) -> Iterator[Store]:
    """Azurite's blobs."""
    port = free_port()
    path.mkdir(parents=True, exist_ok=True)
    command = ["azurite-blob", "--location", str(path), "--blobPort", str(port), "--silent", "--skipApiVersionCheck"]
    address = f"http://127.0.0.1:{port}/devstoreaccount1"
    # The account that every Azurite has, and its documented key.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    environ = {
        "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
        "AZURE_STORAGE_ACCOUNT_KEY": key,
        "AZURE_STORAGE_ENDPOINT": address,
    }
    with _running(command, path / "azure.txt"):
        _wait_for_port(port)
        _create_container(environ)
        yield Store("az://batches/{name}", environ, port)


def _create_container(environ: Mapping[str, str]) -> None:
    """Create the container "batches"; signed by hand, since no client is installed for this one request."""
    import base64  # noqa: PLC0415 - the one place
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415
    from email.utils import formatdate  # noqa: PLC0415

    account, key = environ["AZURE_STORAGE_ACCOUNT_NAME"], environ["AZURE_STORAGE_ACCOUNT_KEY"]
    date, version = formatdate(usegmt=True), "2021-08-06"
    resource = f"/{account}/{account}/batches\nrestype:container"
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n{resource}"
    signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
    headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {account}:{signature}"}
    url = f"{environ['AZURE_STORAGE_ENDPOINT']}/batches?restype=container"
    with suppress(HTTPError), urlopen(Request(url, method="PUT", headers=headers), timeout=30):
        pass


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as opened:
        process = subprocess.Popen(command, stdout=opened, stderr=opened, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + _BEGINS_IN_S
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, f"nothing listens at {port}"
        time.sleep(0.02)
