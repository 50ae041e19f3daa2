"""The spool: a directory that batches are moved into; results, and what came of them, appear beside.

    spool/NAME.toml           a batch file; paths in it are relative to the spool
    spool/PROFILE/NAME.csv    a job file, carried out as profiles/PROFILE.toml says
    spool/failed/…            what cannot be carried out, each with its reason in NAME.….txt

A file is taken when it is there under its final name: who writes it elsewhere and renames it into the spool never has
half of it taken. Names that begin with a dot or end with .part or .tmp are left alone.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import anyio
import structlog

from batchrun.errors import BatchrunError, ConfigError, JobFileError
from batchrun.files import is_job_file
from batchrun.ledger.ledger import is_begun
from batchrun.worker.submission import State, Submission

if TYPE_CHECKING:
    from batchrun.worker.worker import Worker

INTERVAL_S = 1.0
_UNFINISHED = (".part", ".tmp", ".crdownload", "~")

_log = structlog.get_logger()


async def watch_spool(worker: "Worker") -> None:
    """Take what lies in the spool and what comes, until cancelled."""
    spool = Spool(worker)
    while True:
        await spool.look()
        await anyio.sleep(INTERVAL_S)


class Spool:
    """Looks through the spool for what is new there."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._layout = worker.layout

    async def look(self) -> None:
        """Take what is new, and move away what turned out to be unusable."""
        found = await anyio.to_thread.run_sync(lambda: dict(_files(self._layout.spool)))
        known = {each.spooled: each for each in self._worker.shelf if each.spooled is not None}
        for name, signature in found.items():
            submission = known.get(name)
            if submission is None:
                await self._take(name, signature)
            elif submission.signature != signature and submission.state.is_over:
                await self._take(name, signature, before=submission)
            elif submission.state is State.FAILED:
                await anyio.to_thread.run_sync(self._move_away, submission)

    async def _take(self, name: PurePosixPath, signature: str, before: Submission | None = None) -> None:
        """Take a file; one that has taken the place of another goes on with that one's results."""
        submission = Submission(
            id=before.id if before is not None else self._worker.shelf.new_id(),
            name=_stem(name),
            created_at=datetime.now(UTC),
            profile=name.parts[0] if len(name.parts) > 1 else None,
            spooled=name,
            signature=signature,
        )
        try:
            await self._worker.add(submission)
        except (ConfigError, JobFileError) as error:
            failed = submission.but(state=State.FAILED, reason=str(error), ended_at=datetime.now(UTC))
            await self._worker.note(failed)
            _log.warning("spooled_batch_refused", file=str(name), reason=str(error))
            await anyio.to_thread.run_sync(self._move_away, failed)
        except BatchrunError as error:
            _log.warning("spooled_batch_not_taken", file=str(name), reason=str(error))

    def _move_away(self, submission: Submission) -> None:
        """Move what cannot be carried out to `failed/`, with the reason; not what has results."""
        assert submission.spooled is not None, "it lies in the spool"
        if is_begun(self._layout.out_dir(submission)):
            return
        source, target = self._layout.spool / submission.spooled, self._layout.failed / submission.spooled
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_name(f"{target.name}.txt").write_text(f"{submission.reason}\n", encoding="utf-8")
            source.replace(target)
        except OSError as error:
            _log.warning("not_moved_away", file=str(source), reason=str(error))


def _files(spool: Path) -> Iterator[tuple[PurePosixPath, str]]:
    """Return what lies in the spool, each with what tells it from another file of the same name."""
    with suppress(FileNotFoundError):
        for entry in os.scandir(spool):
            if _is_left_alone(entry.name):
                continue
            if entry.is_file() and entry.name.endswith(".toml"):
                yield PurePosixPath(entry.name), _signature(entry)
            elif entry.is_dir() and entry.name != "failed" and not entry.name.endswith(".out"):
                yield from _job_files(entry)


def _job_files(directory: "os.DirEntry[str]") -> Iterator[tuple[PurePosixPath, str]]:
    for entry in os.scandir(directory):
        if entry.is_file() and not _is_left_alone(entry.name) and is_job_file(entry.name):
            yield PurePosixPath(directory.name, entry.name), _signature(entry)


def _is_left_alone(name: str) -> bool:
    return name.startswith(".") or name.endswith(_UNFINISHED) or name.endswith(".summary.json")


def _signature(entry: "os.DirEntry[str]") -> str:
    stat = entry.stat()
    return f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"


def _stem(name: PurePosixPath) -> str:
    return name.name.split(".")[0] or name.name
