"""The output files of a batch, as far as they are committed."""

from pathlib import Path

import anyio
from aiohttp import web

from batchrun.ledger.facts import SECRETS
from batchrun.ledger.sqlite.connection import is_blank
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.output.layout import BATCH_LOG, LEDGER
from batchrun.policy.secret_fields import SecretFields
from batchrun.worker.http.request_context import submission_of, worker_of


async def out_dir_of(request: web.Request) -> Path:
    """Return the output directory of a request's batch; that of a batch in shards is brought up to date first."""
    worker, submission = worker_of(request), submission_of(request)
    if (mirrored := worker.sharded_with(submission.id)) is not None:
        await mirrored.bring_output(submission.id)
    else:
        worker.refuse_without_files(submission.id)
    return worker.directory.out_dir(submission)


async def has_ledger(out_dir: Path) -> bool:
    """Return whether an output directory has a ledger that can be read."""
    return not await anyio.to_thread.run_sync(is_blank, out_dir / LEDGER)


def secret_fields(out_dir: Path) -> SecretFields:
    """Return the secret fields of a batch's inputs: by their names, as long as no schema is known."""
    if is_blank(out_dir / LEDGER):
        return SecretFields(None)
    with open_for_reading(out_dir) as ledger:
        return ledger.fact(SECRETS) or SecretFields(None)


async def length_of(out_dir: Path, name: str) -> int:
    """Return the number of bytes of a file that are final: the committed ones, and all of a log."""
    return await anyio.to_thread.run_sync(_size if name == BATCH_LOG else _committed_length, out_dir, name)


def _committed_length(out_dir: Path, name: str) -> int:
    if is_blank(out_dir / LEDGER):
        return 0
    with open_for_reading(out_dir) as ledger:
        return ledger.output_lengths().get(name, 0)


def _size(out_dir: Path, name: str) -> int:
    try:
        return (out_dir / name).stat().st_size
    except FileNotFoundError:
        return 0
