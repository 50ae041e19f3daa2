"""The `@` fields of a line (`@key`, `@options`, …): taken out of the override and checked."""

import math
from collections.abc import Callable
from typing import Any, Final

from batchrun.jobs.job_key import MAX_KEY_CHARS, check_key, is_name
from batchrun.jobs.rows import NotAJob, kind_of, quoted
from batchrun.jobs.template import to_bool, to_int
from batchrun.model import JsonObject, RunOptions, read_json
from batchrun.runtime.fast_dataclasses import dataclass

#: Largest priority, and with a minus the smallest: far beyond any use, far within 64 bits.
MAX_PRIORITY = 10**9

#: The memory sizes that the API accepts.
_MEMORIES_MB = tuple(2**n for n in range(7, 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class AtFields:
    """The `@` fields of one line: what it says to batchrun and not to the Actor."""

    key: str | None = None
    #: Checked, as the line gives them; empty when it gives none.
    options: JsonObject
    priority: int = 0
    replaces: bool = False
    group: str | None = None
    meta: Any = None

    @property
    def run_options(self) -> RunOptions | None:
        """The options as the engine takes them; None when the line gives none."""
        if not self.options:
            return None
        given = dict(self.options)
        if "webhooks" in given:
            given["webhooks"] = tuple(given["webhooks"])
        return RunOptions(**given)


NO_AT_FIELDS: Final = AtFields(options={})


def take_at_fields(override: JsonObject, *, are_cells: bool = False) -> AtFields:
    """Take the `@` fields out of an override, which loses them, and check them.

    In cells of CSV, `@options` and `@meta` hold JSON text, and an empty cell means no field.

    Raises:
        NotAJob: A field is unknown, or its value is not allowed.
    """
    names = [name for name in override if name[:1] == "@"]
    if not names:
        return NO_AT_FIELDS
    fields: JsonObject = {"options": {}}
    for name in names:
        value = override.pop(name)
        check = _CHECKS.get(name)
        if check is None:
            raise NotAJob(unknown_field(name))
        if are_cells:
            if not value and name != "@key":
                continue
            value = _from_cell(name, value)
        check(value)
        fields[name[1:]] = value
    return AtFields(**fields)


def unknown_field(name: str) -> str:
    """Return the message about an `@` field that does not exist."""
    known = ", ".join(AT_FIELDS)
    return f"{name!r} is not one of the fields {known}; a property of the input must not begin with '@'"


def check_group(group: Any) -> None:
    """Raise NotAJob if a value cannot name a group."""
    if type(group) is not str or not is_name(group):
        raise NotAJob(
            f"the group must be a string of at most {MAX_KEY_CHARS} characters without line ends, not {quoted(group)}"
        )


def _check_priority(priority: Any) -> None:
    if type(priority) is not int or abs(priority) > MAX_PRIORITY:
        raise NotAJob(f"@priority must be a whole number within ±{MAX_PRIORITY:,}, not {quoted(priority)}")


def _check_replaces(replaces: Any) -> None:
    if type(replaces) is not bool:
        raise NotAJob(f"@replaces must be true or false, not {quoted(replaces)}")


def _check_options(options: Any) -> None:
    if type(options) is not dict:
        raise NotAJob(f'@options must be an object like {{"memory_mb": 1024}}, not {quoted(options)}')
    for name, value in options.items():
        if name not in _OPTIONS:
            raise NotAJob(f"@options has no option {name!r}; its options are {', '.join(_OPTIONS)}")
        is_fit, wanted = _OPTIONS[name]
        if not is_fit(value):
            shown = _webhooks_problem(value) if name == "webhooks" else f", not {quoted(value)}"
            raise NotAJob(f"@options.{name} must be {wanted}{shown}")


def _from_cell(name: str, text: str) -> Any:
    try:
        if name == "@priority":
            return to_int(text)
        if name == "@replaces":
            return to_bool(text)
        return read_json(text) if name in ("@options", "@meta") else text
    except ValueError:
        wanted = {"@priority": "a whole number", "@replaces": "true or false"}.get(name, "JSON")
        raise NotAJob(f"column {name!r} must hold {wanted}, not {quoted(text)}") from None


def _is_count(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value < 2**63


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _is_webhook(value: Any) -> bool:
    return type(value) is dict and value != {}


def _is_webhooks(value: Any) -> bool:
    return type(value) is list and all(map(_is_webhook, value))


def _webhooks_problem(value: Any) -> str:
    """Return what stands there instead of webhooks. No part is quoted: their addresses and headers hold keys."""
    if type(value) is not list:
        return f", not {kind_of(value)}"
    number, hook = next((number, hook) for number, hook in enumerate(value, start=1) if not _is_webhook(hook))
    return f"; number {number} is {kind_of(hook)}"


_OPTIONS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "build": (lambda value: type(value) is str and value != "", 'a build\'s tag or number like "latest"'),
    "timeout_s": (_is_count(0), "a whole number of seconds from 0"),
    "memory_mb": (
        lambda value: type(value) is int and value in _MEMORIES_MB,
        f"a power of two from {_MEMORIES_MB[0]} to {_MEMORIES_MB[-1]}",
    ),
    "max_items": (_is_count(1), "a whole number from 1"),
    "max_total_charge_usd": (_is_amount, "a number above 0"),
    "restart_on_error": (lambda value: type(value) is bool, "true or false"),
    "webhooks": (_is_webhooks, "a list of objects in the API's own spelling"),
}
_CHECKS: Final[dict[str, Callable[[Any], object]]] = {
    "@key": check_key,
    "@options": _check_options,
    "@priority": _check_priority,
    "@replaces": _check_replaces,
    "@group": check_group,
    "@meta": lambda _: None,
}
AT_FIELDS: Final = tuple(_CHECKS)
