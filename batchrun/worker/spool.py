"""The spool: a directory that batches are moved into; results, and what came of them, appear beside.

    spool/NAME.toml           a batch file; paths in it are relative to the spool
    spool/PROFILE/NAME.csv    a job file, carried out as profiles/PROFILE.toml says
    spool/failed/…            what cannot be carried out, each with its reason in NAME.….txt

A file is taken when it is there under its final name: who writes it elsewhere and renames it into the spool never has
half of it taken. Names that begin with a dot or end with .part or .tmp are left alone.
"""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import TYPE_CHECKING

import anyio
import structlog

from batchrun.errors import BatchrunError, ConfigError, JobFileError
from batchrun.jobs import is_job_file
from batchrun.worker.submission import State, Submission
from batchrun.worker.submission_store import has_begun
from batchrun.worker.summary_file import is_summed_up

if TYPE_CHECKING:
    from batchrun.worker.worker import Worker

INTERVAL_S = 1.0
_UNFINISHED = (".part", ".tmp", ".crdownload", "~")

_log = structlog.get_logger()

#: Told of a file or directory that cannot be read.
Tell = Callable[[Path, Exception], None]


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
        #: What was said of each file, so that it is not said every second.
        self._told: dict[Path, str] = {}

    async def look(self) -> None:
        """Take what is new, and move away what turned out to be unusable; trouble with one file is its own."""
        found = await anyio.to_thread.run_sync(lambda: dict(_files(self._layout.spool, self._tell)))
        known = {each.spooled: each for each in self._worker.shelf if each.spooled is not None}
        for name, signature in found.items():
            try:
                await self._look_at(name, signature, known.get(name))
            except BatchrunError as error:
                self._tell(self._layout.spool / name, error)

    async def _look_at(self, name: PurePosixPath, signature: str, known: Submission | None) -> None:
        if known is None:
            await self._take(name, signature)
        elif known.signature != signature and known.state.is_over:
            await self._take(name, signature, before=known)
        elif known.state is State.FAILED and known.signature == signature:
            await anyio.to_thread.run_sync(self._move_away, known)

    def _tell(self, file: Path, error: Exception) -> None:
        if self._told.get(file) != str(error):
            self._told[file] = str(error)
            _log.warning("spooled_file_left", file=str(file), reason=str(error))

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
        if before is None and await anyio.to_thread.run_sync(is_summed_up, self._layout, submission):
            return  # it was carried out, and deleted here since
        if (rival := self._rival_of(submission)) is not None:
            where = self._layout.out_dir(submission).name
            await self._refuse(submission, f"{where} holds the results of {rival.spooled}; give this file another name")
            return
        try:
            await self._worker.add(submission)
        except (ConfigError, JobFileError) as error:
            await self._refuse(submission, str(error))

    def _rival_of(self, submission: Submission) -> Submission | None:
        """Return another file's submission whose results are where this one's would be: a.csv beside a.jsonl."""
        out_dir = self._layout.out_dir(submission)
        others = (each for each in self._worker.shelf if each.spooled not in (None, submission.spooled))
        return next((each for each in others if self._layout.out_dir(each) == out_dir), None)

    async def _refuse(self, submission: Submission, reason: str) -> None:
        failed = submission.but(state=State.FAILED, reason=reason, ended_at=datetime.now(UTC))
        _log.warning("spooled_batch_refused", file=str(submission.spooled), reason=reason)
        await self._worker.note(failed)
        is_theirs = self._rival_of(submission) is not None
        await anyio.to_thread.run_sync(self._move_away, failed, is_theirs)

    def _move_away(self, submission: Submission, is_theirs: bool = False) -> None:
        """Move what cannot be carried out to `failed/`, with the reason; not what has results of its own."""
        assert submission.spooled is not None, "it lies in the spool"
        if not is_theirs and has_begun(self._layout.out_dir(submission)):
            return
        source, target = self._layout.spool / submission.spooled, self._layout.failed / submission.spooled
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_name(f"{target.name}.txt").write_text(f"{submission.reason}\n", encoding="utf-8")
            source.replace(target)
        except OSError as error:
            self._tell(source, error)


def _files(spool: Path, tell: Tell) -> Iterator[tuple[PurePosixPath, str]]:
    """Return what lies in the spool, each with what tells it from another file of the same name."""
    for file in _entries(spool, tell):
        if file.name.endswith(".toml"):
            yield from _signed(PurePosixPath(file.name), file, tell)
        elif file.name != "failed" and not file.name.endswith(".out") and file.is_dir():
            for job_file in _entries(file, tell):
                if is_job_file(job_file.name):
                    yield from _signed(PurePosixPath(file.name, job_file.name), job_file, tell)


def _entries(directory: Path, tell: Tell) -> list[Path]:
    try:
        return [each for each in sorted(directory.iterdir()) if not _is_left_alone(each.name)]
    except OSError as error:
        tell(directory, error)
        return []


def _is_left_alone(name: str) -> bool:
    is_unfinished = name.startswith(".") or name.endswith(_UNFINISHED)
    # A name that is no text cannot be noted.
    return is_unfinished or name.endswith(".summary.json") or not name.isprintable()


def _signed(name: PurePosixPath, file: Path, tell: Tell) -> Iterator[tuple[PurePosixPath, str]]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return  # it was taken away again
    except OSError as error:
        tell(file, error)
        return
    if S_ISREG(stat.st_mode):
        yield name, _signature(stat)


def _signature(stat: os.stat_result) -> str:
    return f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"


def _stem(name: PurePosixPath) -> str:
    return name.name.split(".")[0] or name.name
