"""Pages of a file of lines, newest line first: read backwards in blocks, whatever the size of the file."""

from pathlib import Path
from typing import NamedTuple

from batchrun.output.committed_lines import MAX_LINE_BYTES, too_long
from batchrun.runtime.private_files import private_opener

#: Bytes that are read at once.
_BLOCK_BYTES = 1 << 20
#: Max bytes that one call searches: about half a second.
MAX_SEARCHED_BYTES = 64 << 20
#: Max bytes of the lines of one page, unless it is one line.
MAX_PAGE_BYTES = 2 << 20


class LinePage(NamedTuple):
    """Some lines of a file, newest first."""

    lines: list[bytes]
    #: The lines before this position were not looked at; 0: all were.
    before: int


def read_line_page(file: Path, before: int, limit: int, words: list[str]) -> LinePage:
    """Return the last lines that end before a position and have all words, whatever their case.

    A page may have fewer lines than `limit`, even none, although more follow before its position.

    Args:
        file: its lines end with a line feed.
        before: in bytes; an incomplete line before it is left out.
        limit: max lines.
        words: as they stand in JSON.

    Raises:
        OSError: the file cannot be read.
        OutputError: it has a line that no batch writes.
    """
    wanted = [word.casefold() for word in words]
    found: list[bytes] = []
    found_bytes = 0
    end = start = before  # of the lines that are not looked at yet
    rest = b""
    with open(file, "rb", opener=private_opener) as opened:
        while start > 0 and (before - start < MAX_SEARCHED_BYTES or end == before):
            if len(rest) >= MAX_LINE_BYTES:
                raise too_long(file)
            size = min(max(_BLOCK_BYTES, len(rest)), start)  # twice as much for a line that is longer than a block
            start -= size
            opened.seek(start)
            text = opened.read(size) + rest
            # The first line of a block may have begun in an earlier one.
            begin = 0 if start == 0 else text.find(b"\n") + 1
            last = text.rfind(b"\n") + 1
            if last <= begin:
                rest = text
                continue
            lines = _split(text[begin:last])
            rest, end = text[:begin], start + last
            for line in reversed(lines):
                is_full = len(found) == limit or (found and found_bytes + len(line) > MAX_PAGE_BYTES)
                if is_full:
                    return LinePage(found, end)
                end -= len(line)
                if _has(line, wanted):
                    found.append(line[:-1])
                    found_bytes += len(line)
    return LinePage(found, end if start > 0 else 0)


def _split(text: bytes) -> list[bytes]:
    """Split after each line feed, and after nothing else."""
    return [line + b"\n" for line in text.split(b"\n")[:-1]]


def _has(line: bytes, wanted: list[str]) -> bool:
    if not wanted:
        return True
    text = line.decode("utf-8", "replace").casefold()
    return all(word in text for word in wanted)
