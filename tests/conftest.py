"""What every test stands on: asyncio as the backend, and a watch over calls that block its loop."""

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from batchrun.runtime.logs import silence
from tests.support.patience import SOON_FINAL_COSTS

# All processes of the tests import the same modules: let them compile each once, also where the environment forbids it.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

#: Bytes in memory that the files of a whole run may take.
_ROOM = 4 << 30
# A commit syncs three files, and a disk takes milliseconds for each. What tests kill is processes, whose files outlive
# them in memory too.
_memory = Path("/dev/shm")
if "PYTEST_DEBUG_TEMPROOT" not in os.environ and _memory.is_dir():
    _free = os.statvfs(_memory)
    if _free.f_bavail * _free.f_frsize > _ROOM and not _free.f_flag & os.ST_NOEXEC and os.access(_memory, os.W_OK):
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(_memory)

# The key of signatures is not put into the home of who runs the tests; processes of pytest-xdist have the same one.
if "XDG_STATE_HOME" not in os.environ:
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="batchrun-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# Each run tries other examples, so that few of them are enough; a busy machine may take its time for one.
settings.register_profile(
    "batchrun",
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("batchrun")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from looking through modules and tests, which all stay, again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a parameter of bytes by its place: packed bytes may hold the time, and all processes need the same names."""
    return argname if isinstance(val, bytes) else None


class _CollectionOrder:
    """Lets each process of pytest-xdist collect a directory's files beginning with another one.

    Where there is no bytecode yet, each then compiles a part of the files, and finds that of the others.
    `pytest_collection_modifyitems` makes the order of the tests one again.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if isinstance(collector, pytest.Dir) and report.result:
            worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
            begin = len(report.result) * worker // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
            report.result = report.result[begin:] + report.result[:begin]
        return report


def pytest_configure(config: pytest.Config) -> None:
    """Register what this file's own hooks would do too late: they know a directory after it was collected."""
    config.pluginmanager.register(_CollectionOrder())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mix files that mostly wait for processes with unit tests, which only compute, so that no processor idles.

    The longest come first: the crash tests, then the worker's. The last fifth of the unit tests fills up the end.
    """
    files = sorted({item.path for item in items})
    unit, crash, integration = (
        [file for file in files if kind in file.parts] for kind in ("unit", "crash", "integration")
    )
    waiting = [*crash, *reversed(integration)]
    place = {file: n / len(unit) for n, file in enumerate(unit)}
    place |= {file: 0.8 * n / len(waiting) for n, file in enumerate(waiting)}
    items.sort(key=lambda item: (place[item.path], item.path))  # two files may have one place


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run asynchronous tests on asyncio's own loop; unit tests swap in virtual time."""
    return "asyncio", {"debug": False}


@pytest.fixture(autouse=True, scope="session")
def _silence() -> None:
    """Keep the library's logs, which nobody has configured a place for, off the tests' output."""
    silence()


@pytest.fixture(autouse=True, scope="session")
def _heed_signals() -> None:
    """Let processes that tests start heed Ctrl-C and a hang-up, also where `&` or nohup had us ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def soon_final_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take costs as final soon after a Run's end; the server must settle them sooner."""
    for name, value in SOON_FINAL_COSTS.items():
        monkeypatch.setattr(name, value)


@pytest.fixture(scope="session")
def _blockbuster() -> Iterator[BlockBuster]:
    with blockbuster_ctx("batchrun") as watch:
        for function in watch.functions.values():
            # Without a command that sets up the log, structlog prints tracebacks, with lines that it reads.
            function.can_block_in("structlog/dev.py", "__call__")
        yield watch


@pytest.fixture(autouse=True)
def blockbuster(_blockbuster: BlockBuster) -> Iterator[BlockBuster]:
    """Fail any test in which batchrun blocks the event loop, by SQLite or a file too. A test may deactivate it."""
    yield _blockbuster
    _blockbuster.activate()
