"""Ids and times in the platform's formats. Pure except for randomness and the wall clock."""

import hashlib
import os
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from batchrun.server.error_answers import value_invalid

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#: Maps each byte to a character. Eight characters are a little more frequent, which costs 0.04 of 77 bits.
_BYTE_TO_CHARACTER = bytes(_ALPHABET[byte % 62] for byte in range(256))

#: Characters of an id. Source: the platform's own ids.
ID_LENGTH = 17
#: Characters of an id's prefix, and the low bits of the time in ms that it leaves out. The prefix sorts like the time:
#: ids made at about the same time are close together in an index, so that a commit writes few pages. It repeats after
#: about 21 days, which is harmless.
_PREFIX_LENGTH, _PREFIX_BITS = 4, 7
_PREFIX_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH = ID_LENGTH - _PREFIX_LENGTH
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, whose offset the API writes as a Z
#: Ids are made on several threads: popping and extending a list is atomic.
_SPARE_IDS: list[str] = []


def new_id() -> str:
    """Return a new id of 17 characters. It cannot be guessed: ids of Runs and storages are credentials."""
    while True:
        try:
            return _SPARE_IDS.pop()
        except IndexError:
            # Random bytes for 100 ids at once: the system call costs more than the rest of an id.
            characters = os.urandom(_RANDOM_LENGTH * 100).translate(_BYTE_TO_CHARACTER).decode()
            prefix = _time_prefix(now_ms())
            _SPARE_IDS.extend(
                prefix + characters[at : at + _RANDOM_LENGTH] for at in range(0, len(characters), _RANDOM_LENGTH)
            )


def _time_prefix(at_ms: int) -> str:
    rest, prefix = at_ms >> _PREFIX_BITS, ""
    for _ in range(_PREFIX_LENGTH):
        rest, digit = divmod(rest, len(_PREFIX_ALPHABET))
        prefix = _PREFIX_ALPHABET[digit] + prefix
    return prefix


@lru_cache(maxsize=1024)
def derived_id(name: str) -> str:
    """Return the id that follows from `name`; for Actors, whose ids are public and outlive restarts."""
    return hashlib.sha256(name.encode()).digest()[:ID_LENGTH].translate(_BYTE_TO_CHARACTER).decode()


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def iso(at_ms: int) -> str:
    """Return a wall time as the API writes it: `2026-01-31T12:00:00.000Z`."""
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds") + "Z"


def parse_iso(text: str, parameter: str) -> int:
    """Return the wall milliseconds of an ISO 8601 time. Without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise value_invalid(f"Parameter {parameter} must be a date and time in ISO 8601") from None
