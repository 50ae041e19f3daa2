"""The command line as a user meets it: a process, its exit code, and what it says."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forked import run, start
from tests.support.patience import Constants

LIMIT_S = 120


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


def batchrun(
    *arguments: str,
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    stdin: str | None = None,
    constants: Constants | None = None,
) -> Said:
    """Run a command to its end, in a directory, without a terminal."""
    environ = {**_clean_environment(), **(environ or {})}
    given: dict[str, Any] = {"environ": environ, "stdin": stdin, "constants": constants or {}}
    done = run("batchrun", *arguments, cwd=cwd, timeout=LIMIT_S, **given)
    return Said(done.returncode, done.stdout, done.stderr)


@contextmanager
def serving(data_dir: Path, token: str, *options: str) -> Iterator[str]:
    """Run `batchrun serve` and give its address."""
    arguments = ("serve", "--port", "0", "--data", str(data_dir), *options)
    environ = {**_clean_environment(), "APIFY_TOKEN": token}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with start("batchrun", *arguments, cwd=data_dir.parent, environ=environ, **streams) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            rest = process.stdout.read()
            assert rest == "", "nothing but the address goes to stdout"


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("APIFY_", "BATCHRUN_"))}


def embedded_batch(directory: Path, actors: Path, actor: str, lines: list[str]) -> Path:
    """Write a batch that brings its server along, with Actors of a directory; return its file."""
    (directory / "jobs.jsonl").write_text("".join(f"{line}\n" for line in lines))
    file = directory / "batch.toml"
    file.write_text(
        f'[api]\nbase_url = "embedded"\n[server]\nactors = ["{actors}"]\n'
        f'[task]\nactor = "{actor}"\nname = "template"\n[jobs]\nfile = "jobs.jsonl"\n[output]\nvalue = true\n'
    )
    return file
