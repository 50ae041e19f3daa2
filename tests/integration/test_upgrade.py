"""A worker's directory that an earlier version has left, killed in the midst: this version carries all of it on.

The archive holds a worker with an embedded server, killed while three Runs of a batch were live. Its ledgers have
schema step 8: later ones keep the storages of earlier attempts. Beside that batch, one is paused and one is finished.
"""

import sqlite3
import tarfile
from pathlib import Path

import anyio
import pytest

from batchrun.config.worker_config import load_worker_config
from batchrun.worker import batch_orders
from batchrun.worker.data_directory import open_data_directory
from batchrun.worker.submission import BatchState
from batchrun.worker.worker import open_worker
from tests.support.crash import ROOT
from tests.support.json_lines import read_lines
from tests.support.worker_life import until

ARCHIVE = ROOT / "tests/support/earlier_versions/worker_schema_8.tar.xz"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The directory, unpacked elsewhere than where it was made."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "data", filter="data")
    actors = ROOT / "tests/support/actors/crash-worker"
    (tmp_path / "data/worker.toml").write_text(
        f'[api]\nbase_url = "embedded"\n[limits]\nmax_concurrent_runs = 6\n[server]\nactors = ["{actors}"]\n'
    )
    return tmp_path / "data"


async def test_batches_of_an_earlier_version_are_carried_on(data: Path) -> None:
    """Each job has one record, and each Run of the server, old or new, is in exactly one of them."""
    config = await anyio.to_thread.run_sync(lambda: load_worker_config(data, environ={}))
    async with (
        open_data_directory(data) as directory,
        open_worker(directory, config, {}) as worker,
        anyio.create_task_group() as children,
    ):
        by_name = {each.name: each for each in worker.store}
        states = {name: each.state for name, each in by_name.items()}
        assert states == {
            "active": BatchState.ACTIVE,
            "paused": BatchState.PAUSED,
            "finished": BatchState.FINISHED,
        }
        assert by_name["finished"].counts.settled == 3
        children.start_soon(worker.run)
        await until(lambda: worker.is_ready, "a worker that is ready")
        await batch_orders.resume(worker, by_name["paused"].id)
        await until(
            lambda: all(each.state is BatchState.FINISHED for each in worker.store),
            lambda: str([(each.name, each.state, each.reason) for each in worker.store]),
        )
        worker.drain()
        await worker.wait_until_drained()
        children.cancel_scope.cancel()
        files = {name: worker.directory.out_dir(each) / "records.jsonl" for name, each in by_name.items()}
    records = await anyio.to_thread.run_sync(lambda: {name: read_lines(file) for name, file in files.items()})
    assert {name: sorted(each["line"] for each in found) for name, found in records.items()} == {
        "active": list(range(1, 13)),
        "paused": list(range(1, 13)),
        "finished": list(range(1, 4)),
    }
    outcomes = {each["line"]: each["outcome"] for each in records["active"]}
    assert outcomes == {line: "failed" if line % 4 == 1 else "succeeded" for line in range(1, 13)}
    recorded = sorted(
        attempt["run_id"] for found in records.values() for record in found for attempt in record["attempts"]
    )
    assert recorded == sorted(await anyio.to_thread.run_sync(_runs_of_server, data))


def _runs_of_server(data: Path) -> list[str]:
    with sqlite3.connect(data / "server/server.sqlite3") as database:
        return [run_id for (run_id,) in database.execute("SELECT id FROM runs")]
