"""A column of a job file: its values at the head of the file, and the words of its name."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from batchrun.runtime.fast_dataclasses import dataclass

#: A word by the shape of its characters: an acronym in the plural ("URLs"), one before a word ("URL" of "URLList"), a
#: word, an acronym, a number.
_WORD = re.compile(r"A{2,}s(?![as])|A+(?=A[as])|A?[as]+|A+|9+")
#: Words for one thing; the first stands for all.
_SYNONYMS = (
    ("url", "link", "href", "uri", "website", "webpage", "site"),
    ("query", "search", "keyword", "term", "phrase", "q"),
    ("limit", "max", "maximum", "most"),
    ("country", "market", "nation", "countrycode"),
    ("language", "lang", "locale"),
    ("location", "city", "place", "town"),
    ("user", "username", "handle", "profile", "account"),
)
_CANONICAL = {word: words[0] for words in _SYNONYMS for word in words}
#: Words that say nothing about what a property holds.
_NOISE = frozenset(
    {
        *("start", "list", "array", "string", "item", "result", "per", "crawl", "crawled", "request", "value", "input"),
        *("the", "of", "no", "at", "code", "to", "be", "a"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobColumn:
    """A column of a job file, or a property that its lines have; with the values at the head of the file."""

    name: str
    #: The values that are not empty.
    values: Sequence[Any]
    has_empty: bool = False
    #: Whether no value occurs twice.
    is_unique: bool = False

    @property
    def has_cells(self) -> bool:
        """True if its values are texts, as in CSV."""
        return all(isinstance(value, str) for value in self.values)


def name_words(name: str) -> frozenset[str]:
    """Return the words that say what a column or a property holds: in the singular, one for all synonyms."""
    singular = [word[:-1] if re.search(r".[^s]s$", word) else word for word in plain_words(name)]
    words = frozenset(_CANONICAL.get(word, word) for word in singular)
    return words - _NOISE or words


def plain_words(name: str) -> list[str]:
    """Return the words of a name in small letters: "start" and "urls" of `startURLs`."""
    name = unicodedata.normalize("NFC", name)
    return [name[slice(*found.span())].lower() for found in _WORD.finditer("".join(map(_shape, name)))]


def _shape(character: str) -> str:
    if character.isupper():
        return "A"
    if character.isalpha():
        return "s" if character == "s" else "a"
    return "9" if character.isdecimal() else " "
