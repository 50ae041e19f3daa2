"""What makes two failures one cause: outcome, error type, exit code, and message without numbers, ids and addresses."""

import re
from hashlib import sha256

#: Characters of a message that are read.
LOOKED_AT_CHARS = 2000
#: Characters that are compared, once numbers, ids and addresses are replaced.
COMPARED_CHARS = 200

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+")
#: Quoted text, unless it is one plain word such as the name of a missing property; an apostrophe is no quote.
_QUOTED = re.compile(r"""(?<!\w)(["'`])(?![A-Za-z_.-]+\1).*?\1(?!\w)""")
_RUN_ID = re.compile(r"\bRun \w+")
#: A status code after a word that says so: 403 and 500 are two causes, page 403 and page 500 are one.
_STATUS = re.compile(r"(?i)(?:^|\b(?:http(?:/[\d.]+)?|status|code|error)[ :=]*)[45]\d\d\b")
_WITH_DIGITS = re.compile(r"\w*\d\w*")


def with_exit_code(said: str, exit_code: int | None) -> str:
    """Return the message of a failure: what was said, and the exit code."""
    return said if exit_code is None else f"{said} (exit code {exit_code})"


def without_exit_code(message: str, exit_code: int | None) -> str:
    """Return what was said, from the message of a failure with this exit code."""
    return message.removesuffix(with_exit_code("", exit_code))


def failure_id(outcome: str, error_type: str | None, exit_code: int | None, message: str | None) -> str:
    """Return a short id, the same for all failures of one cause."""
    said = without_exit_code(message or "", exit_code)
    parts = (outcome, error_type or "", "" if exit_code is None else str(exit_code), _without_particulars(said))
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _without_particulars(message: str) -> str:
    text = " ".join(message[:LOOKED_AT_CHARS].split())
    text = _QUOTED.sub("'…'", _URL.sub("…", text))
    text = _RUN_ID.sub("Run …", text)
    kept = "".join(_between_statuses(text))
    return kept[:COMPARED_CHARS]


def _between_statuses(text: str) -> list[str]:
    """Return the pieces of a text: status codes unchanged, and between them every word with a digit replaced."""
    pieces, end = [], 0
    for status in _STATUS.finditer(text):
        pieces += [_WITH_DIGITS.sub("#", text[end : status.start()]), status[0]]
        end = status.end()
    return [*pieces, _WITH_DIGITS.sub("#", text[end:])]
