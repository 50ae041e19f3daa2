"""The encoding of a job file: the known names, what a byte order mark says, the likely one of a file not in UTF-8."""

import codecs
import re
from pathlib import Path

from batchrun.errors import ConfigError

#: Encodings in which each character is one byte, and ASCII is ASCII: they can be split and sought like UTF-8.
ONE_BYTE = re.compile(r"ascii|iso8859-\d+|cp125\d|cp437|cp85\d|cp866|koi8-[rtu]|mac-\w+")
#: Codecs of the standard library that begin again at every piece, or that hold no file: a few megabytes take hours.
_NO_STREAM = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})
#: In which Excel saves "CSV" in Western Europe and America.
_LIKELY_ENCODING = "cp1252"
#: Characters of a job file that are looked at at a time.
_READ_CHARS = 1 << 20


def known_encoding(name: str) -> str:
    """Return the usual name of an encoding, as the codecs have it.

    Raises:
        ConfigError: it is unknown, or no encoding of a file.
    """
    try:
        normal = codecs.lookup(name).name
        if normal in _NO_STREAM:
            raise LookupError
        "".encode(name)
        codecs.getincrementaldecoder(name)
    except LookupError:
        problem = f"{name!r} is not a known text encoding; leave it out for UTF-8, or try cp1252, utf-16"
        raise ConfigError(problem, key="jobs.encoding") from None
    return "utf-8" if normal == "utf-8-sig" else normal


def marked_encoding(head: bytes) -> str | None:
    """Return the encoding that the byte order mark at the head of a file names; None: UTF-8, or there is no mark."""
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def likely_encoding(file: Path) -> str | None:
    """Return the encoding to read a text as that is not UTF-8; None if it is, or in none that is likely."""
    is_likely = not _decodes(file, "utf-8") and _decodes(file, _LIKELY_ENCODING)
    return _LIKELY_ENCODING if is_likely else None


def _decodes(file: Path, encoding: str) -> bool:
    with file.open(encoding=encoding) as lines:
        try:
            while lines.read(_READ_CHARS):
                pass
        except UnicodeDecodeError:
            return False
    return True
