"""The spool: a directory from which batches are taken; their results and summaries appear beside them.

    spool/NAME.toml           a batch file; paths in it are relative to the spool
    spool/PROFILE/NAME.csv    a job file that runs under profiles/PROFILE.toml
    spool/failed/…            files that cannot run, each with its reason in NAME.….txt

A file is taken once it has its final name. Write it elsewhere and rename it into the spool, so that it is never taken
incomplete. Names that begin with a dot or end with .part or .tmp are ignored.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG

import anyio
import structlog

from batchrun.config.text_bounds import read_bounded
from batchrun.errors import BatchrunError, ConfigError, JobFileError
from batchrun.jobs import is_job_file
from batchrun.runtime.held_directory import held
from batchrun.runtime.shell_command import shell_command
from batchrun.worker.data_directory import DataDirectory, has_begun, has_ledger, has_open_jobs
from batchrun.worker.spool_summary import has_summary, write_summary_file
from batchrun.worker.spool_taken_files import TakenFile, beginning_of, is_same_file
from batchrun.worker.submission import BatchState, Submission
from batchrun.worker.submission_store import SubmissionStore

#: Seconds between two looks at the spool.
INTERVAL_S = 1.0
#: Endings of names of incomplete files.
_UNFINISHED = (".part", ".tmp", ".crdownload", "~")

#: Max bytes of batch files in which is looked for a file that none of them may name. Reading takes a tenth of a second.
_MAX_SEARCHED_BYTES = 256 << 20
_LONE = "is not taken: no batch file here names it; move it into the directory of its profile, or write a batch file"

_LINKED = (
    "is a symbolic link, which is not followed here; make a directory of this name, and move the job files into it"
)

_CANCELLED = "has changed, but its batch was cancelled; `{resume}` goes on with it"
_DELETED = "has changed, but its batch was cancelled and deleted; give the file another name to run its jobs"
_MOVED = (
    "has run, and its results were moved: under this name it would run again from its first line; give the file another"
    " name for that, or put {out} back"
)

_log = structlog.get_logger()

#: Reports a file or directory that cannot be read.
Report = Callable[[Path, Exception], None]
#: Submits a batch to the worker.
Submit = Callable[[Submission], Awaitable[Submission]]


async def watch_spool(directory: DataDirectory, store: SubmissionStore, submit: Submit) -> None:
    """Submit the files in the spool, also those that come, until cancelled."""
    spool = Spool(directory, store, submit)
    while True:
        await spool.look()
        await anyio.sleep(INTERVAL_S)


class Spool:
    """Finds new files in the spool and submits them."""

    def __init__(self, directory: DataDirectory, store: SubmissionStore, submit: Submit) -> None:
        self._directory = directory
        self._store = store
        self._submit = submit
        #: The last error of each file: the same one is not logged every second.
        self._reported: dict[Path, str] = {}
        #: Signatures of changed files that begin with all that those before held: they are not read every second.
        self._same: dict[PurePosixPath, str] = {}
        #: Files beside batch files, which name them.
        self._named: set[Path] = set()

    async def look(self) -> None:
        """Submit new files and move unusable ones away; an error with one file does not affect the others."""
        found = await anyio.to_thread.run_sync(self._find)
        known = {each.spooled: each for each in self._store if each.spooled is not None}
        for name, signature in found.items():
            try:
                await self._look_at(name, signature, known.get(name))
            except Exception as error:  # noqa: BLE001 - a bug must not end the other batches
                self._report(self._directory.spool / name, error)

    async def _look_at(self, name: PurePosixPath, signature: str, known: Submission | None) -> None:
        if known is None:
            deleted = self._store.taken.get(name)
            if deleted is None or not await self._is_left(name, signature, deleted, deleted.is_cancelled):
                await self._take(name, signature)
        elif known.signature != signature and known.state is BatchState.CANCELLED:
            # A copy of the spool, or a touch, changes the signature, too, and would spend what somebody has stopped.
            resume = shell_command("batchrun", "worker", "resume", known.name)
            self._report(self._directory.spool / name, JobFileError(_CANCELLED.format(resume=resume), file=Path(name)))
        elif known.signature != signature and known.state.is_over:
            if known.begun_at is not None and await self._is_left(name, signature, known, is_cancelled=False):
                left = f"{name} {_MOVED.format(out=self._directory.out_dir_of(name).name)}"
                if known.reason != left:
                    await self._store.update(known.id, lambda _: {"reason": left})
                    await self._write_summary(known.id)
            else:
                await self._take(name, signature, before=known)
        elif known.state is BatchState.FAILED and known.signature == signature:
            await anyio.to_thread.run_sync(self._move_away, known)

    async def _is_left(
        self, name: PurePosixPath, signature: str, before: Submission | TakenFile, is_cancelled: bool
    ) -> bool:
        """Return whether a file is left alone that has run or was cancelled as `before`; say why, once.

        Its results may have been moved: only the worker's own notes tell that its jobs have run.
        """
        file, is_same = self._directory.spool / name, self._same.get(name) == signature
        if not is_same and await anyio.to_thread.run_sync(is_same_file, before, file, signature):
            is_same, self._same[name] = True, signature
        is_unchanged = signature == before.signature
        out_dir = self._directory.out_dir_of(name)
        has_results = await anyio.to_thread.run_sync(has_ledger, out_dir)
        if is_cancelled:
            # Any file of this name would go on with the open jobs that somebody has stopped.
            is_left = is_same or (has_results and await anyio.to_thread.run_sync(has_open_jobs, out_dir))
            reason = "" if is_unchanged else _DELETED
        else:
            is_left = is_same and (is_unchanged or not has_results)
            reason = "" if has_results else _MOVED.format(out=out_dir.name)
        if is_left and reason:
            self._report(file, JobFileError(reason, file=Path(name)))
        return is_left

    def _find(self) -> dict[PurePosixPath, str]:
        entries = _entries(self._directory.spool, self._report)
        self._report_lone_files(entries)
        return dict(_files(entries, self._report))

    def _report_lone_files(self, entries: list[Path]) -> None:
        """Report files at the top that are no batch file and that no batch file names."""
        files = [each for each in entries if S_ISREG(_mode_of(each, self._report))]
        others = {each for each in files if not _is_batch_file(each)}
        if not (new := others - self._named - self._reported.keys()):
            return
        names = {file: file.name.encode(errors="surrogateescape") for file in new}
        try:
            batch_files = [each for each in files if _is_batch_file(each)]
            if sum(each.stat().st_size for each in batch_files) > _MAX_SEARCHED_BYTES:
                return
            for each in batch_files:  # one at a time: all of them together may be gigabytes
                text = read_bounded(each)
                self._named.update(file for file in new if names[file] in text)
        except (OSError, ValueError):
            return  # it may be the one that names them; it is refused with the reason, or gone at the next look
        for file in new - self._named:
            self._report(file, JobFileError(_LONE, file=file))

    def _report(self, file: Path, error: Exception) -> None:
        if self._reported.get(file) != str(error):
            self._reported[file] = str(error)
            is_expected = isinstance(error, (BatchrunError, OSError))
            _log.warning(
                "spooled_file_left", file=str(file), reason=str(error), exc_info=None if is_expected else error
            )

    async def _take(self, name: PurePosixPath, signature: str, before: Submission | None = None) -> None:
        """Submit a file; one that replaces an earlier file of its name resumes that file's batch."""
        beginning = await anyio.to_thread.run_sync(beginning_of, self._directory.spool / name)
        submission = Submission(
            id=before.id if before is not None else self._store.new_id(),
            name=name.name.split(".")[0] or name.name,
            created_at=datetime.now(UTC),
            profile=name.parts[0] if len(name.parts) > 1 else None,
            spooled=name,
            signature=signature,
            beginning=beginning,
        )
        if before is None and await anyio.to_thread.run_sync(has_summary, self._directory, submission):
            return  # this file has run, and its batch was deleted from the store since
        if (rival := self._directory.rival_of(submission, self._store)) is not None:
            where = self._directory.out_dir(submission).name
            await self._refuse(submission, f"{where} holds the results of {rival.spooled}; give this file another name")
            return
        submission = await self._with_beginning(submission, name, signature, before)
        try:
            await self._submit(submission)
        except (ConfigError, JobFileError) as error:
            await self._refuse(submission, str(error))

    async def _with_beginning(
        self, submission: Submission, name: PurePosixPath, signature: str, before: Submission | None
    ) -> Submission:
        """Return a submission that goes on with earlier results as one that has begun: it never runs without them.

        They may be moved while it waits for its place among the open batches.
        """
        has_results = await anyio.to_thread.run_sync(has_ledger, self._directory.out_dir(submission))
        if before is not None:
            submission = submission.but(spent_before_usd=before.spent_before_usd)
        if before is None or before.begun_at is None:  # of another batch, they are no beginning: its opening shows that
            return submission.but(begun_at=submission.created_at) if has_results else submission
        file = self._directory.spool / name
        if has_results or await anyio.to_thread.run_sync(is_same_file, before, file, signature):
            return submission.but(begun_at=before.begun_at, counts=before.counts)
        # Another file, and the results of the earlier one were moved.
        return submission.but(spent_before_usd=before.spent_before_usd + before.counts.noted_usd)

    async def _refuse(self, submission: Submission, reason: str) -> None:
        failed = submission.but(state=BatchState.FAILED, reason=reason, ended_at=datetime.now(UTC))
        _log.warning("spooled_batch_refused", file=str(submission.spooled), reason=reason)
        failed = await self._store.add(failed)
        has_rival = self._directory.rival_of(submission, self._store) is not None
        await anyio.to_thread.run_sync(self._move_away, failed, has_rival)
        await self._write_summary(failed.id)

    async def _write_summary(self, submission_id: str) -> None:
        async with self._store.lock:
            submission = self._store.get(submission_id)
            if submission is not None and not submission.state.is_under_way:
                await anyio.to_thread.run_sync(write_summary_file, self._directory, submission, self._store)

    def _move_away(self, submission: Submission, has_rival: bool = False) -> None:
        """Move a file that cannot run to `failed/`, with the reason; one whose batch has open jobs stays beside it."""
        assert submission.spooled is not None, "only files of the spool are moved"
        out_dir, reason = self._directory.out_dir(submission), submission.reason
        if not has_rival and has_begun(out_dir):
            if has_open_jobs(out_dir):
                return  # mended, the same file resumes its batch
            reason = (
                f"{reason}\n{out_dir.name} holds the results of an earlier file of this name; give this one another"
            )
        try:
            _move_to_failed(self._directory.spool, submission.spooled, f"{reason}\n")
        except OSError as error:
            self._report(self._directory.spool / submission.spooled, error)


def _move_to_failed(spool: Path, name: PurePosixPath, reason: str) -> None:
    """Move a file, with the reason beside it, over none that is there: it may be the only copy of what was handed in.

    No link that others put in the place of a directory is followed.
    """
    with ExitStack() as stack:
        source = stack.enter_context(held(spool))
        target = stack.enter_context(source.within("failed", makes=True))
        for part in name.parts[:-1]:
            source = stack.enter_context(source.within(part))
            target = stack.enter_context(target.within(part, makes=True))
        stem, dot, suffixes = name.name.partition(".")
        numbered = (f"{stem}-{number}{dot}{suffixes}" for number in count(2))
        free = next(each for each in chain([name.name], numbered) if not target.has(each))
        target.replace(f"{free}.txt", reason.encode())
        target.take(name.name, source, free)


def _files(entries: list[Path], report: Report) -> Iterator[tuple[PurePosixPath, str]]:
    for file in entries:
        if _is_batch_file(file):
            yield from _signed(PurePosixPath(file.name), file, report)
        elif file.name != "failed" and not file.name.endswith(".out") and S_ISDIR(_mode_of(file, report)):
            if file.is_symlink():
                report(file, JobFileError(_LINKED, file=file))
                continue
            for job_file in _entries(file, report):
                if is_job_file(job_file.name):
                    yield from _signed(PurePosixPath(file.name, job_file.name), job_file, report)
                elif not job_file.name.endswith(".out"):
                    report(job_file, JobFileError("its name does not end like a job file's", file=job_file))


def _is_batch_file(file: Path) -> bool:
    return file.name.lower().endswith(".toml")


def _entries(directory: Path, report: Report) -> list[Path]:
    try:
        return [each for each in sorted(directory.iterdir()) if not _is_ignored(each.name)]
    except OSError as error:
        report(directory, error)
        return []


def _is_ignored(name: str) -> bool:
    is_unfinished = name.startswith(".") or name.endswith(_UNFINISHED)
    # An unprintable name cannot be stored.
    return is_unfinished or name.endswith(".summary.json") or not name.isprintable()


def _mode_of(file: Path, report: Report) -> int:
    """Return what a path leads to; 0: nothing, or it cannot be seen, as where a link leads into a closed directory."""
    try:
        return file.stat().st_mode
    except FileNotFoundError:
        return 0
    except OSError as error:
        report(file, error)
        return 0


def _signed(name: PurePosixPath, file: Path, report: Report) -> Iterator[tuple[PurePosixPath, str]]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return  # it was removed meanwhile
    except OSError as error:
        report(file, error)
        return
    if S_ISREG(stat.st_mode):
        # What distinguishes a file from a later one of the same name.
        yield name, f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
