"""The questions of `batchrun init` at a terminal."""

import sys
from collections.abc import Sequence
from typing import Any

import typer

from batchrun.cli.terminal import say
from batchrun.errors import ConfigError, SeveralLines
from batchrun.model import JsonObject, read_json
from batchrun.preflight.column_match import wrapped
from batchrun.words.terminal_text import one_line

#: Tasks, Actors or columns that are offered to choose from.
MAX_OFFERED = 30
#: Max characters of a line with texts of an Actor's schema.
_MAX_CHARS = 300


def is_terminal() -> bool:
    """True if a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def choose(kind: str, names: Sequence[str]) -> str:
    """Let a person choose a task or an Actor.

    Raises:
        ConfigError: there is no terminal to ask at; the message lists the names.
    """
    shown = names[:MAX_OFFERED]
    if not is_terminal():
        raise ConfigError(SeveralLines([f"give --{kind}. The account has:", *(f"  {name}" for name in shown)]))
    for number, name in enumerate(shown, start=1):
        say(f"  {number:>2}  {name}")
    while True:
        given = typer.prompt(f"Which {'Actor' if kind == 'actor' else 'task'}? Its number or name", err=True).strip()
        if given.isdecimal() and 0 < int(given) <= len(shown):
            return shown[int(given) - 1]
        if "/" in given or "~" in given:
            return str(given)


def ask_column(question: str, offered: Sequence[str], usual: str) -> str:
    """Let a person choose one of several columns."""
    say("  ".join(f"{number} {name}" for number, name in enumerate(offered, start=1)))
    given = typer.prompt(f"{one_line(question, _MAX_CHARS)} Its number", default="1", err=True).strip()
    return offered[int(given) - 1] if given.isdecimal() and 0 < int(given) <= len(offered) else usual


def ask_value(name: str, field: JsonObject, columns: Sequence[str]) -> tuple[bool, Any]:
    """Ask for a required property: return whether a column fills it, and the column or the value; None: left open."""
    kind = field.get("type", "text")
    say(one_line(f"The Actor requires {name} ({kind}): {field.get('title') or ''}", _MAX_CHARS).rstrip(": "))
    say("  ".join(f"{number} {column}" for number, column in enumerate(columns, start=1)))
    given = typer.prompt("A column's number, or =VALUE for all lines (empty: later)", default="", err=True).strip()
    if given.isdecimal() and 0 < int(given) <= len(columns):
        return True, columns[int(given) - 1]
    if not given.startswith("="):
        return False, None
    return False, _constant(given[1:].strip(), field)


def _constant(text: str, field: JsonObject) -> Any:
    """Return a value for all lines: the text for a string, its JSON for other types; in a list if one is wanted."""
    kind = field.get("type")
    try:
        value = text if kind == "string" else read_json(text.encode())
    except ValueError:
        value = text
    return wrapped(text, field) if kind == "array" and not isinstance(value, list) else value
