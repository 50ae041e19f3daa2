"""The jobs that did not succeed as they are shown: the same values for the command line, HTTP and the page."""

from pathlib import Path

from batchrun.config import Config
from batchrun.model import Selection
from batchrun.report.failures_by_cause import FailureCause, read_failures, run_address
from batchrun.report.sent_overrides import sent_overrides
from batchrun.runtime.fast_dataclasses import dataclass

#: Max characters of an override.
MAX_OVERRIDE_CHARS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFailure(FailureCause):
    """A cause whose sample is shown with its line, its Run's page and its override."""

    line: int
    #: The address of the Run's page; None: an embedded platform has none that lasts.
    run_url: str | None
    #: The override as JSON, without secrets; None: it cannot be read.
    override: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFailures:
    """The jobs that did not succeed, most frequent causes first."""

    jobs: int
    failures: list[ShownFailure]
    #: Causes that are not listed, and their jobs.
    other_causes: int
    other_jobs: int
    #: Lines that are no jobs.
    bad_lines: int
    succeeded: int
    #: False: the jobs came from stdin, which cannot be read again.
    can_retry: bool


NO_FAILURES = ShownFailures(jobs=0, failures=[], other_causes=0, other_jobs=0, bad_lines=0, succeeded=0, can_retry=True)


def show_causes(directory: Path, config: Config, selection: Selection) -> ShownFailures:
    """Return the selected jobs of a batch by cause; an empty Selection means all that did not succeed.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    found = read_failures(directory, selection)
    sent = sent_overrides(directory, config, found.kinds, MAX_OVERRIDE_CHARS)
    failures = [
        ShownFailure(
            id=each.id,
            count=each.count,
            outcome=each.outcome,
            error_type=each.error_type,
            exit_code=each.exit_code,
            message=each.message,
            line=each.position.line,
            key=each.key,
            run_id=each.run_id,
            run_url=run_address(config.api, each.run_id) if each.run_id is not None else None,
            log_tail=each.log_tail,
            override=sent.get(each.position) or None,
        )
        for each in found.kinds
    ]
    return ShownFailures(
        jobs=found.jobs,
        failures=failures,
        other_causes=found.other_kinds,
        other_jobs=found.other_jobs,
        bad_lines=found.bad_lines,
        succeeded=found.succeeded,
        can_retry=can_be_read_again(config),
    )


def can_be_read_again(config: Config) -> bool:
    """True if the jobs of a batch can be read once more for a retry."""
    return str(config.jobs.file) != "-"
