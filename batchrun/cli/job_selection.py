"""The jobs that a command's flags select."""

from collections.abc import Iterable, Mapping, Sequence

from batchrun.errors import ConfigError
from batchrun.model import Outcome, Selection

#: Max unknown names that are shown per flag.
MAX_NAMED = 10


def make_selection(
    *,
    outcomes: list[str] | None,
    error_types: list[str] | None,
    groups: list[str] | None,
    keys: Iterable[str] | None,
    failures: list[str] | None,
) -> Selection:
    """Return the selection of some flags: a job must match all of them. A flag can be repeated or hold commas.

    Keys are not split at commas: keys of a matrix contain some, and a part could be the key of another job.

    Raises:
        ConfigError: an outcome does not exist.
    """
    return Selection(
        outcomes=_outcomes(outcomes),
        error_types=_split(error_types),
        groups=[*groups, *(_split(groups) or [])] if groups else None,  # their names may contain commas
        keys=list(keys) if keys is not None else None,
        failures=_split(failures),
    )


def refuse_unknown(unknown: Mapping[str, Sequence[str]], groups: list[str] | None) -> None:
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
        raise ConfigError("\n".join([*lines, "Nothing was started; `batchrun failures` shows what exists"]))


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
