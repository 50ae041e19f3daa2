"""Which fields of an input are secret, and the input, or any text, without their values.

What the platform needs is never changed: only what people and files get to see.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

from batchrun.runtime.fast_dataclasses import dataclass

#: Stands for a secret value.
MASK = "***"
#: Shorter values are not searched for in texts: they would be found in ordinary words.
MIN_TEXT_CHARS = 4
#: The same of a line of a value that has several, such as a key: a log shows each line alone. Max lines of a value.
_MIN_LINE_CHARS, _MAX_LINES = 8, 1000
#: Max texts that are searched for of one value: itself, its lines, and those of the JSON that it may be. A file of
#: credentials has some dozens; a value of megabytes would have so many that searching stops the event loop for seconds.
_MAX_PIECES = 2000
#: Names of fields that are taken for secret if no schema says which are.
_SECRET_NAME = re.compile(
    r"pass(?:word|wd|wort|phrase|code)|pwd|kennwort|session[ _-]?id|secret|token|credential|cookie|authorization"
    r"|(?:api|access|client|private|session|auth|login|ssh|licen[cs]e)[ _-]?key",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class SecretFields:
    """The secret fields of a task's inputs."""

    #: Of each secret field, the names that lead to it; "*" stands for any position of an array, or any property.
    #: None: no schema could be read, and the names of fields decide.
    paths: tuple[tuple[str, ...], ...] | None = ()

    def masked(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        """Return an input with `MASK` in place of each secret value."""
        if self._is_secret(path):
            return MASK
        if isinstance(value, dict):
            return {name: self.masked(part, (*path, name)) for name, part in value.items()}
        if isinstance(value, list):
            return [self.masked(part, (*path, "*")) for part in value]
        return value

    def texts_in(self, value: Any) -> set[str]:
        """Return the secret texts of an input, as an Actor may print them: in JSON, in a URL, as Python's `repr`."""
        if self.paths is None:
            texts = _texts_by_name(value, is_secret=False)
        else:
            texts = (text for path in self.paths for part in _parts_at(value, path) for text in _texts(part))
        pieces = (
            piece for text in texts for piece in islice(_pieces(text), _MAX_PIECES) if len(piece) >= MIN_TEXT_CHARS
        )
        return {spelling for piece in pieces for spelling in _spellings(piece)}

    def joined(self, other: "SecretFields | None") -> "SecretFields":
        """Return the fields that are secret by this schema, or by another one that some Runs were started with."""
        if other is None or self.paths is None or other.paths is None:
            return self
        return SecretFields(tuple(dict.fromkeys((*self.paths, *other.paths))))

    def _is_secret(self, path: tuple[str, ...]) -> bool:
        if not path:
            return False
        if self.paths is None:
            return is_secret_name(path[-1])
        return any(
            len(secret) == len(path) and all(part in ("*", name) for part, name in zip(secret, path, strict=True))
            for secret in self.paths
        )


class InputSecrets:
    """The secret texts of Runs' inputs: those of a job's override, and those of what lies under each override."""

    def __init__(self, fields: SecretFields, under: Iterable[Any] = ()) -> None:
        """Look for the secrets of what lies under each override, such as the task's input."""
        self._fields = fields
        self._under: set[str] = set()
        for each in under:
            self.add(each)

    @property
    def are_none(self) -> bool:
        """True if no field is secret."""
        return self._fields.paths == ()

    def add(self, value: Any) -> None:
        """Look for the secrets of what lies under each override from now on, too."""
        self._under |= self._fields.texts_in(value)

    def of(self, override: bytes) -> tuple[str, ...]:
        """Return the secret texts of a Run's input, longest first; `without` removes them from messages."""
        if self.are_none:
            return ()
        texts = self._under | self._fields.texts_in(orjson.loads(override))
        return tuple(sorted(texts, key=lambda text: (-len(text), text)))


def _parts_at(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    """Yield the parts of an input to which a path leads."""
    if not path:
        yield value
        return
    name, *rest = path
    if isinstance(value, list):
        parts: Iterable[Any] = value if name == "*" else ()
    elif isinstance(value, dict):
        parts = value.values() if name == "*" else [value[name]] if name in value else ()
    else:
        parts = ()
    for part in parts:
        yield from _parts_at(part, tuple(rest))


def _texts(value: Any) -> Iterator[str]:
    """Yield all values of a secret part of an input; true and false are in any text."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str) or type(value) in (int, float):
        yield str(value)


def _texts_by_name(value: Any, *, is_secret: bool) -> Iterator[str]:
    """Yield the texts under names of secrets; a number may be a count."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _texts_by_name(part, is_secret=is_secret or is_secret_name(name))
    elif isinstance(value, list):
        for part in value:
            yield from _texts_by_name(part, is_secret=is_secret)
    elif is_secret and isinstance(value, str):
        yield value


def is_secret_name(name: str) -> bool:
    """True if a field or a column of this name is taken for secret where no schema says which are."""
    return _SECRET_NAME.search(name) is not None


def _pieces(text: str) -> Iterator[str]:
    """Yield a secret text, its lines, and those of the texts in it if it is JSON."""
    yield text
    lines = text.splitlines()
    if len(lines) > 1:
        yield from (line for line in (each.strip() for each in lines[:_MAX_LINES]) if len(line) >= _MIN_LINE_CHARS)
    if text.lstrip().startswith(("{", "[")):
        with suppress(orjson.JSONDecodeError, RecursionError):
            for part in _texts(orjson.loads(text)):
                if len(part) >= _MIN_LINE_CHARS:
                    yield from _pieces(part)


def _spellings(text: str) -> set[str]:
    quoted = (orjson.dumps(text).decode(), json.dumps(text), repr(text))
    return {text, quote(text, safe=""), quote_plus(text), *(each[1:-1] for each in quoted)}


def without(text: str, secrets: Collection[str]) -> str:
    """Return a text with `MASK` in place of each of some secrets."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text
