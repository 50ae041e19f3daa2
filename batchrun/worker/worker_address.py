"""Where a worker is: its HTTP API over the network, or its socket on this machine."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import field
from pathlib import Path

from yarl import URL

from batchrun.errors import ConfigError
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.loopback import is_loopback_host
from batchrun.runtime.shell_command import shell_command
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.local_socket import path_of_own
from batchrun.worker.token_file import Token

#: The address in requests through a socket, which leads nowhere else.
_LOCAL = "http://localhost"


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """Where a worker is reached: over the network with its token, or through the socket in its data directory."""

    url: str
    token: Token | None = field(default=None, repr=False)
    socket: Path | None = None

    @property
    def place(self) -> str:
        """Where the worker is, for messages."""
        return self.url if self.socket is None else str(self.socket)

    @property
    def exposes_token(self) -> bool:
        """True if the token goes to another machine where everybody on the way can read it."""
        url = URL(self.url)
        return self.socket is None and url.scheme == "http" and not is_loopback_host(url.host or "")


def find_worker(data_dir: Path, url: str | None, environ: Mapping[str, str]) -> WorkerAddress:
    """Return the address and token of the worker at `url`, or else the socket of the one on a data directory.

    Raises:
        ConfigError: the token or the directory is missing, the address is invalid, or another user may answer at the
            socket.
    """
    if url is not None:
        token = environ.get("BATCHRUN_WORKER_TOKEN", "").strip()
        if not token:
            raise ConfigError("--url: put the worker's token into BATCHRUN_WORKER_TOKEN; it is in its DATA/token")
        return WorkerAddress(_checked(url), Token(token))
    directory = DataDirectory(data_dir)
    if not directory.token.exists():
        start = shell_command("batchrun", "worker", "start", "--data", data_dir)
        raise ConfigError(f"{data_dir}: no worker was ever started here; use another --data, or {start}")
    with own_path(directory.socket):
        pass  # before anything that is to be sent is read
    return WorkerAddress(_LOCAL, socket=directory.socket)


@contextmanager
def own_path(file: Path) -> Iterator[str]:
    """Yield a short path of a worker's socket.

    Raises:
        ConfigError: another user may answer at the socket.
    """
    with ExitStack() as stack:
        try:
            path = stack.enter_context(path_of_own(file))
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; nothing was sent to the worker there") from error
        yield path


def _checked(url: str) -> str:
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if "@" in url:
        raise ConfigError("--url: is shown, so it must hold no password; the token goes into BATCHRUN_WORKER_TOKEN")
    if "?" in url or "#" in url:
        raise ConfigError("--url: must end without ?… and #…; the token goes into BATCHRUN_WORKER_TOKEN")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{url[:200]!r} is not the address of a worker; write it as http://127.0.0.1:8421")
    return url.rstrip("/")
