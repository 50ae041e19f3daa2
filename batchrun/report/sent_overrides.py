"""The overrides of failed jobs, read from the job file again: the ledger keeps positions, not content."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from batchrun.config import Config
from batchrun.config.job_format_builder import job_format
from batchrun.errors import JobFileError
from batchrun.jobs import JobFile
from batchrun.ledger.facts import SECRETS
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.model import Position, RunId, read_json, write_json
from batchrun.policy.secret_fields import SecretFields
from batchrun.report.failures_by_cause import Failure


def sent_override(directory: Path, config: Config, run_id: RunId) -> bytes | None:
    """Return the override of a Run's job, with its secrets; None: it cannot be read, or has changed since."""
    with (
        open_for_reading(directory) as ledger,
        suppress(JobFileError),
        JobFile(job_format(config, {})) as job_file,
    ):
        position = ledger.position_of(run_id)
        for job in job_file.reread([position] if position is not None else []):
            return job.body if ledger.digest_of(job.key) == job.digest else None
    return None


def sent_overrides(directory: Path, config: Config, failures: Iterable[Failure], max_chars: int) -> dict[Position, str]:
    """Return the overrides of each failure's sample as JSON, without secret values, cut to `max_chars`.

    Overrides that cannot be read are left out, and lines that have changed since the batch read them.

    Args:
        directory: of the batch.
        config: of the batch, as `read_config` returns it. Its job file is one that this user has chosen: somebody else
            would choose the digests, too, and could have any file shown.
        failures: their samples are looked for.
        max_chars: of an override.
    """
    positions = [failure.position for failure in failures]
    found: dict[Position, str] = {}
    if job_format(config, {}).is_stdin:
        return {}
    with (
        open_for_reading(directory) as ledger,
        suppress(JobFileError),
        JobFile(job_format(config, {})) as job_file,
    ):
        secrets = ledger.fact(SECRETS) or SecretFields(None)
        # Read one by one, so that one changed line does not hide the others; one pass if the file cannot seek.
        parts = [[position] for position in positions] if job_file.is_seekable else [positions]
        for part in parts:
            with suppress(JobFileError):
                for job in job_file.reread(part):
                    if ledger.digest_of(job.key) != job.digest:
                        continue
                    shown = write_json(secrets.masked(read_json(job.body)))
                    # A character takes four bytes at most.
                    found[job.position] = shown[: 4 * max_chars].decode("utf-8", "replace")[:max_chars]
    return found
