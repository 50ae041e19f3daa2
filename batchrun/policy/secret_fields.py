"""Which fields of an input are secret, and the input, or any text, without their values.

What the platform needs is never changed: only what people and files get to see.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

from batchrun.runtime.fast_dataclasses import dataclass

#: Stands for a secret value.
MASK = "***"
#: Shorter values are not searched for in texts: they would be found in ordinary words.
MIN_TEXT_CHARS = 4
#: Names of fields that are taken for secret if no schema says which are.
_SECRET_NAME = re.compile(
    r"pass(?:word|wd|phrase)|secret|token|api[_-]?key|private[_-]?key|credential|cookie|authorization", re.IGNORECASE
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

    def texts_in(self, body: bytes) -> tuple[str, ...]:
        """Return the secret texts of an input, given as JSON, longest first; `without` removes them from messages.

        They are as an Actor may print them: by themselves, in JSON, in a URL, as Python's `repr`.
        """
        if self.paths == ():
            return ()
        values = {text for text in self._texts(orjson.loads(body), ()) if len(text) >= MIN_TEXT_CHARS}
        texts = {spelling for text in values for spelling in _spellings(text)}
        return tuple(sorted(texts, key=len, reverse=True))

    def _texts(self, value: Any, path: tuple[str, ...], *, is_secret: bool = False) -> Iterator[str]:
        is_secret = is_secret or self._is_secret(path)
        if isinstance(value, dict):
            for name, part in value.items():
                yield from self._texts(part, (*path, name), is_secret=is_secret)
        elif isinstance(value, list):
            for part in value:
                yield from self._texts(part, (*path, "*"), is_secret=is_secret)
        elif is_secret and isinstance(value, str):
            yield value
        elif is_secret and self.paths is not None and type(value) in (int, float):  # a name may be that of a count
            yield str(value)

    def _is_secret(self, path: tuple[str, ...]) -> bool:
        if not path:
            return False
        if self.paths is None:
            return _SECRET_NAME.search(path[-1]) is not None
        return any(
            len(secret) == len(path) and all(part in ("*", name) for part, name in zip(secret, path, strict=True))
            for secret in self.paths
        )


def _spellings(text: str) -> set[str]:
    quoted = (orjson.dumps(text).decode(), json.dumps(text), repr(text))
    return {text, quote(text, safe=""), quote_plus(text), *(each[1:-1] for each in quoted)}


def without(text: str, secrets: Collection[str]) -> str:
    """Return a text with `MASK` in place of each of some secrets."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text
