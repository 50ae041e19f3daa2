"""The settled jobs that a retry reopens, from the values of its flags; the same for a directory and for a worker."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from batchrun.config import Config
from batchrun.errors import ConfigError, SeveralLines
from batchrun.model import Outcome, Selection
from batchrun.report.batch_status import read_status
from batchrun.report.failures_by_cause import Tripped, count_failures, read_tripped, read_unknown
from batchrun.report.shown_failures import can_be_read_again
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.words.number_words import counted
from batchrun.words.progress_words import outcome_counts

#: Max unknown names that are shown per flag.
MAX_NAMED = 10
#: Why jobs from stdin cannot be retried, and what to do instead.
CANNOT_BE_READ_AGAIN = (
    "the jobs came from stdin, which cannot be read again. Put the lines of the failed jobs into a file and run it as"
    " another batch"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedJobs:
    """The values of a retry's flags: a job must match all of them. Values can hold commas.

    Keys are not split at commas: keys of a matrix contain some, and a part could be the key of another job.
    """

    outcomes: list[str] | None = None
    error_types: list[str] | None = None
    groups: list[str] | None = None
    keys: list[str] | None = None
    failures: list[str] | None = None
    #: Only the jobs for which the breaker tripped last.
    tripped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsToRetry:
    """Settled jobs that get a new round, and their number."""

    selection: Selection
    jobs: int


def jobs_to_retry(directory: Path, config: Config, wanted: WantedJobs) -> JobsToRetry:
    """Find the jobs of a batch that a retry reopens; an empty WantedJobs means all that did not succeed.

    Raises:
        ConfigError: an outcome does not exist, or no job has a name; the breaker has not tripped; or the jobs cannot be
            read again.
        LedgerError: there is no ledger, or it is damaged.
    """
    trip = _tripped(directory) if wanted.tripped else None
    selection = _selection(wanted, trip)
    _refuse_unknown(read_unknown(directory, selection), wanted.groups)
    jobs = count_failures(directory, selection)
    if jobs and not can_be_read_again(config):
        raise ConfigError(f"{directory}: {CANNOT_BE_READ_AGAIN}; nothing was changed")
    return JobsToRetry(selection=selection, jobs=jobs)


def why_nothing(directory: Path, selection: Selection) -> list[str]:
    """Return in words why no job is retried."""
    summary = read_status(directory).summary
    lines = [f"Nothing to retry: no job matches ({outcome_counts(summary.outcomes)})"]
    if selection.outcomes is None and selection != Selection():
        succeeded = count_failures(directory, replace(selection, outcomes=[Outcome.SUCCEEDED]))
        if succeeded:
            lines.append(f"--outcome succeeded retries {counted(succeeded, 'matching job')} that succeeded")
    if summary.open_jobs:
        lines.append(f"`batchrun run` resumes {counted(summary.open_jobs, 'open job')}")
    return lines


def _tripped(directory: Path) -> Tripped:
    tripped = read_tripped(directory)
    if tripped is None:
        raise ConfigError(f"{directory}: the breaker has not tripped in this batch; leave --tripped out")
    return tripped


def _selection(wanted: WantedJobs, trip: Tripped | None) -> Selection:
    keys, groups = wanted.keys, wanted.groups
    if trip is not None:
        keys = [key for key in trip.keys if keys is None or key in keys]
    selection = Selection(
        outcomes=_outcomes(wanted.outcomes),
        error_types=_split(wanted.error_types),
        groups=[*groups, *(_split(groups) or [])] if groups else None,  # their names may contain commas
        keys=keys,
        failures=_split(wanted.failures),
    )
    if trip is not None and trip.is_for_empty and selection.outcomes is None:
        # Successes without items have tripped it: the default selection would leave them out.
        return replace(selection, outcomes=[each for each in Outcome if each is not Outcome.INVALID])
    return selection


def _refuse_unknown(unknown: Mapping[str, Sequence[str]], groups: list[str] | None) -> None:
    """Refuse names that no job of the batch has: a misspelt one would silently leave jobs out.

    `unknown` is by part of a selection. A value of --group is a group whose name may contain commas, or several groups.

    Raises:
        ConfigError: some names are unknown; it lists them.
    """
    strange = set(unknown.get("groups", ()))
    strange_groups = [part for value in groups or [] if value in strange for part in _split([value]) or [value]]
    found = {
        "--key": list(unknown.get("keys", ())),
        "--group": list(dict.fromkeys(part for part in strange_groups if part in strange)),
        "--error": list(unknown.get("error_types", ())),
        "--failure": list(unknown.get("failures", ())),
    }
    lines = [
        f"{flag} {', '.join(names[:MAX_NAMED])}: no job of this batch has it" for flag, names in found.items() if names
    ]
    if lines:
        raise ConfigError(SeveralLines([*lines, "Nothing was started; `batchrun failures` shows what exists"]))


def _split(values: list[str] | None) -> list[str] | None:
    return [part for value in values for part in value.split(",") if part] if values else None


def _outcomes(values: list[str] | None) -> list[Outcome] | None:
    outcomes = _split(values)
    if outcomes is None:
        return None
    if Outcome.INVALID in outcomes:
        raise ConfigError("--outcome invalid: bad lines cannot be retried; append corrected lines to the job file")
    known = [each for each in Outcome if each is not Outcome.INVALID]
    if unknown := [each for each in outcomes if each not in known]:
        raise ConfigError(f"--outcome {unknown[0]}: is not an outcome; choose from {', '.join(known)}")
    return [Outcome(each) for each in outcomes]
