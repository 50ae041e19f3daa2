"""Which jobs the flags of a command select."""

from collections.abc import Iterable, Mapping, Sequence

from batchrun.errors import ConfigError
from batchrun.model import Outcome, Selection

#: Unknown names that are shown of each kind.
MAX_NAMED = 10


def make_selection(
    *,
    outcomes: list[str] | None,
    error_types: list[str] | None,
    groups: list[str] | None,
    keys: Iterable[str] | None,
    failures: list[str] | None,
) -> Selection:
    """Return what flags select: all that is given must hold; values are repeated, or put together with commas.

    Keys are only repeated: those of a matrix hold commas, and one taken apart could name another job.

    Raises:
        ConfigError: there is no such outcome.
    """
    return Selection(
        outcomes=_outcomes(outcomes),
        error_types=_split(error_types),
        groups=[*groups, *(_split(groups) or [])] if groups else None,  # whose names may hold commas
        keys=list(keys) if keys is not None else None,
        failures=_split(failures),
    )


def refuse_unknown(unknown: Mapping[str, Sequence[str]], groups: list[str] | None) -> None:
    """See that all that flags name is there: a misspelt name would quietly leave jobs out.

    Args:
        unknown: what the batch does not know of a selection, by part.
        groups: values of the flag, each a group whose name may hold commas, or several groups.

    Raises:
        ConfigError: some is not; it is named.
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
        raise ConfigError("\n".join([*lines, "Nothing was started; `batchrun failures` shows what there is"]))


def _split(values: list[str] | None) -> list[str] | None:
    return [part for value in values for part in value.split(",") if part] if values else None


def _outcomes(values: list[str] | None) -> list[Outcome] | None:
    outcomes = _split(values)
    if outcomes is None:
        return None
    if Outcome.INVALID in outcomes:
        raise ConfigError("--outcome invalid: such lines are no jobs; append them, mended, to the job file")
    known = [each for each in Outcome if each is not Outcome.INVALID]
    if unknown := [each for each in outcomes if each not in known]:
        raise ConfigError(f"--outcome {unknown[0]}: is none; there are {', '.join(known)}")
    return [Outcome(each) for each in outcomes]
