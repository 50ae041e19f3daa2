"""`batchrun worker start` in a separate process, with batches from its spool."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import orjson

from tests.support.api_process import ACTOR, TOKEN
from tests.support.crash import wait_until
from tests.support.forked import ForkedProcess, start
from tests.support.json_lines import read_lines, to_lines


class WorkerProcess:
    """A worker on a data directory; it can be restarted."""

    def __init__(self, data_dir: Path, base_url: str, config: str = "") -> None:
        self.data_dir = data_dir
        self.base_url = base_url
        (data_dir / "spool").mkdir(parents=True)
        self.configure(config)

    def configure(self, config: str) -> None:
        """Write worker.toml."""
        (self.data_dir / "worker.toml").write_text(config)

    @contextmanager
    def running(self, environ: Mapping[str, str] | None = None, port: int = 0) -> Iterator[ForkedProcess]:
        """Run a process, on a free port or a given one; kill it at the end if it is still running."""
        process = self._start(environ or {}, port, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process, process.stdout:
            try:
                self.address = process.stdout.readline().strip()
                assert self.address, self.said()
                yield process
            finally:
                process.kill()

    def _start(self, environ: Mapping[str, str], port: int, **streams: Any) -> ForkedProcess:
        arguments = ("worker", "start", "--data", str(self.data_dir), "--port", str(port), "--api-url", self.base_url)
        environ = {**os.environ, "APIFY_TOKEN": TOKEN, **environ}
        with (self.data_dir / "stderr.txt").open("ab") as stderr:
            return start("batchrun", *arguments, cwd=Path.cwd(), environ=environ, stderr=stderr, **streams)

    def opened(self, path: str, **headers: str) -> HTTPResponse:
        """Send a GET with the worker's token; return the open answer."""
        token = (self.data_dir / "token").read_text().strip()
        request = Request(self.address + path, headers={"Authorization": f"Bearer {token}", **headers})
        answer: HTTPResponse = urlopen(request, timeout=30)
        return answer

    def ask(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Send a GET with the worker's token; return status and body."""
        try:
            with self.opened(path, **headers) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    def put_batch(self, name: str, jobs: Sequence[Mapping[str, Any]], settings: str = "", task: str = "") -> Path:
        """Put a batch into the spool; return its output directory. Its task has its name if no other is given."""
        (self.data_dir / "spool" / f"{name}.jsonl").write_bytes(to_lines(jobs))
        beside = self.data_dir / f"{name}.toml"
        beside.write_text(
            f'[task]\nactor = "{ACTOR}"\nname = "{task or name}"\noptions = {{ memory_mb = 128 }}\n'
            f'[jobs]\nfile = "{name}.jsonl"\n{settings}'
        )
        beside.replace(self.data_dir / "spool" / beside.name)
        return self.data_dir / "spool" / f"{name}.out"

    def wait_for_end(self, name: str) -> dict[str, Any]:
        """Wait until a batch rests; return its summary file."""
        file = self.data_dir / "spool" / f"{name}.summary.json"
        wait_until(file.exists)
        wait_until(lambda: file.stat().st_size)
        summary: dict[str, Any] = orjson.loads(file.read_bytes())
        return summary

    def batches(self) -> dict[str, dict[str, Any]]:
        """Return the stored submissions, by name."""
        files = (self.data_dir / "batches").glob("*/batch.json")
        noted = [orjson.loads(file.read_bytes()) for file in files]
        return {each["name"]: each for each in noted}

    def said(self) -> str:
        """Return the stderr and the log of all processes."""
        files = (self.data_dir / name for name in ("stderr.txt", "worker.log"))
        return "".join(file.read_text() for file in files if file.exists())


class KilledWorker(WorkerProcess):
    """A worker that is killed and started again; all its batches have one task."""

    process: ForkedProcess
    kills = 0

    def __init__(self, data_dir: Path, base_url: str, config: str = "") -> None:
        super().__init__(data_dir, base_url, config)
        #: The jobs of each batch, by its name.
        self.jobs: dict[str, Sequence[Mapping[str, Any]]] = {}

    def put_batch(self, name: str, jobs: Sequence[Mapping[str, Any]], settings: str = "", task: str = "crash") -> Path:
        """Put a batch into the spool, and remember its jobs."""
        self.jobs[name] = jobs
        return super().put_batch(name, jobs, settings, task)

    def start(self, kill_at: str = "") -> None:
        """Start a process; `kill_at` names the crash point at which it is killed."""
        self._address.unlink(missing_ok=True)
        self.process = self._start({"BATCHRUN_KILL_AT": kill_at}, 0)

    def retry(self, name: str, order: Mapping[str, Any], key: str) -> None:
        """Order a retry of a batch as a client does: again and again until it is answered, or the process ends."""

        def is_answered() -> bool:
            if not (self._address.exists() and (address := self._address.read_text().strip())):
                return False
            token = (self.data_dir / "token").read_text().strip()
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
            try:
                with urlopen(Request(f"{address}/v1/batches/{name}/retry", orjson.dumps(order), headers), timeout=30):
                    return True
            except OSError:
                return self.process.poll() is not None

        wait_until(is_answered)

    def order(self, name: str, order: str) -> None:
        """Give an order for a batch, such as `cancel`."""
        token = (self.data_dir / "token").read_text().strip()
        url = f"{self._address.read_text().strip()}/v1/batches/{name}/{order}"
        with urlopen(Request(url, b"", {"Authorization": f"Bearer {token}"}), timeout=30):
            pass

    def until(self, condition: Callable[[], object], limit_s: float) -> None:
        """Wait until a condition holds; fail at once, with what it said, if the process has ended by itself."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert self.process.poll() is None, f"the worker has ended with {self.process.returncode}: {self.said()}"
            assert time.monotonic() < deadline, f"it did not come to be: {self.batches()}; {self.said()}"
            time.sleep(0.02)

    def records_written(self) -> int:
        """Return how many records all batches have together."""
        files = [self.records_file(name) for name in self.jobs]
        return sum(file.read_bytes().count(b"\n") for file in files if file.exists())

    def kill(self) -> None:
        """Kill the process; assert that it has not ended by itself."""
        assert self.process.poll() is None, self.said()
        self.end()
        self.kills += 1

    def stop(self) -> int:
        """Drain the process, once it handles signals, and return its exit code."""
        wait_until(lambda: self._address.exists() and self._address.read_text())
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def end(self) -> None:
        """Kill the process if it is running."""
        self.process.kill()
        self.process.wait()

    @property
    def _address(self) -> Path:
        return self.data_dir / "address"

    def summary(self, name: str) -> dict[str, Any] | None:
        """Return a batch's summary; None if there is none."""
        file = self.data_dir / "spool" / f"{name}.summary.json"
        return orjson.loads(file.read_bytes()) if file.exists() else None

    @property
    def is_done(self) -> bool:
        """True if every batch has its summary."""
        return all(self.summary(name) is not None for name in self.jobs)

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return a batch's records."""
        return read_lines(self.records_file(name))

    def records_file(self, name: str) -> Path:
        """Return the file of a batch's records; its last line may be half written while the batch runs."""
        return self.data_dir / "spool" / f"{name}.out" / "records.jsonl"


def log_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, without an incomplete last one."""
    if not file.exists():
        return []
    return [orjson.loads(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
