"""The faults of a server as its TOML file has them, and the messages for what is wrong in it.

seed = 1
[[fault]]
kind = "drop_answer"
routes = ["starts"]
probability = 0.05
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from batchrun.errors import ConfigError
from batchrun.server.faults.fault_kinds import KINDS, AnyFault


class Faults(BaseModel):
    """All faults of a server, and the seed of their random numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seed: int = 0
    fault: list[AnyFault] = []
    #: The file that they were read from, for messages.
    source: Path | None = None


def load_faults(file: Path) -> Faults:
    """Read faults from a TOML file.

    Raises:
        ConfigError: names the file and the key.
    """
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=file) from error
    return parse_faults(values, file)


def parse_faults(values: dict[str, Any], file: Path | None = None) -> Faults:
    """Return faults from a TOML table.

    Raises:
        ConfigError: names the key, and the file if there is one.
    """
    if "source" in values:
        raise ConfigError("is not a known key", key="source", file=file)
    try:
        return Faults.model_validate({**values, "source": file})
    except ValidationError as error:
        finding = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key, problem = _explained(finding["type"], finding["msg"], finding["loc"], values)
        raise ConfigError(problem, key=key or None, file=file) from None


def _explained(code: str, message: str, location: tuple[int | str, ...], values: dict[str, Any]) -> tuple[str, str]:
    """Return the dotted key of a validation error, and the problem."""
    # After the fault's index pydantic gives the kind, which is not part of the key.
    path = [*location[:2], *location[3:]] if location[0] == "fault" else [*location]
    key = ".".join(map(str, path))
    if code == "union_tag_invalid":
        return f"{key}.kind", f"is not a known kind of fault{_kinds_like(values['fault'][location[1]]['kind'])}"
    if code == "union_tag_not_found":
        return f"{key}.kind", f"is missing; a fault has one of the kinds {', '.join(KINDS)}"
    if code == "extra_forbidden":
        return key, "is not a known key"
    problem = "is missing" if code == "missing" else message.removeprefix("Value error, ")
    return key, problem.replace("Input", "the value")


def _kinds_like(given: object) -> str:
    close = difflib.get_close_matches(str(given), KINDS, n=1)
    return f"; did you mean {close[0]}?" if close else f" (known are {', '.join(KINDS)})"
