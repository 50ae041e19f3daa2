import os
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from batchrun.runtime.late_imports import need_module

NAME = "a_module_that_takes_its_time"


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a named pipe: the import of a module waits until somebody writes to it."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / f"{NAME}.py").write_text(f"import pathlib\npathlib.Path({str(gate)!r}).read_text()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield gate
    sys.modules.pop(NAME, None)


async def test_a_module_that_another_child_is_importing_is_waited_for_on_a_thread(slow_module: Path) -> None:
    """It stands among the imported ones from the begin of its import."""
    ready = 0

    async def need() -> None:
        nonlocal ready
        await need_module(NAME)
        ready += 1

    def open_gate() -> None:
        slow_module.write_text("")

    async with anyio.create_task_group() as children:
        children.start_soon(need)
        while NAME not in sys.modules:
            await anyio.lowlevel.checkpoint()
        children.start_soon(need)
        try:
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            assert ready == 0
        finally:
            await anyio.to_thread.run_sync(open_gate)
    assert ready == 2
