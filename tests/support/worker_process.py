"""`batchrun worker start` in a separate process, with batches from its spool."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import orjson

from tests.support.api_process import ACTOR, TOKEN
from tests.support.crash import wait_until
from tests.support.forked import ForkedProcess, start


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
        arguments = ("worker", "start", "--data", str(self.data_dir), "--port", str(port), "--api-url", self.base_url)
        environ = {**os.environ, "APIFY_TOKEN": TOKEN, **(environ or {})}
        with (self.data_dir / "stderr.txt").open("ab") as stderr:
            streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True}
            process = start("batchrun", *arguments, cwd=Path.cwd(), environ=environ, **streams)
        assert process.stdout is not None
        with process, process.stdout:
            try:
                self.address = process.stdout.readline().strip()
                assert self.address, self.said()
                yield process
            finally:
                process.kill()

    def ask(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Send a GET with the worker's token; return status and body."""
        token = (self.data_dir / "token").read_text().strip()
        request = Request(self.address + path, headers={"Authorization": f"Bearer {token}", **headers})
        try:
            with urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    def put_batch(self, name: str, jobs: Sequence[Mapping[str, Any]], settings: str = "") -> Path:
        """Put a batch into the spool; return its output directory."""
        lines = b"".join(orjson.dumps(job, option=orjson.OPT_APPEND_NEWLINE) for job in jobs)
        (self.data_dir / "spool" / f"{name}.jsonl").write_bytes(lines)
        beside = self.data_dir / f"{name}.toml"
        beside.write_text(
            f'[task]\nactor = "{ACTOR}"\nname = "{name}"\noptions = {{ memory_mb = 128 }}\n'
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
        """Return the stderr of all processes."""
        return (self.data_dir / "stderr.txt").read_text()


def log_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, without an incomplete last one."""
    if not file.exists():
        return []
    return [orjson.loads(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
