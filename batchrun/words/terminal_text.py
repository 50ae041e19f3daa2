"""Text for a terminal: tables, and foreign text that must not move the cursor, recolour the screen or be a formula."""

import re
from collections.abc import Sequence

#: Where a spreadsheet may take a cell, or a part of one, for a formula. In countries that separate lists by semicolons
#: it divides lines at those, and quotes within a line hold nothing together. Where Japanese, Chinese or Korean is
#: written, the wide forms of the signs count as the signs. Quotes behind a semicolon are doubled in the file: an empty
#: text in quotes, before the formula.
_SIGN = r"[=+\-@\t\r\uff0b\uff0d\uff1d\uff20]"
_FORMULA_START = re.compile(rf"""\A(?={_SIGN})|(?<=[;\t\r\n])(?="*{_SIGN})""")
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")


def one_line(text: str, max_chars: int) -> str:
    """Return text as one line of printable characters, cut with … if it is too long."""
    # Cut before anything else: a message may be megabytes.
    line = " ".join(printable(text[: 4 * max_chars]).split())
    is_cut = len(line) > max_chars or len(text) > 4 * max_chars
    return line[: max_chars - 1].rstrip() + "…" if is_cut else line


def printable(text: str) -> str:
    """Return text with its lines and tabs, but with nothing that controls a terminal or cannot be encoded."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    plain = _ESCAPE_SEQUENCE.sub("", text.replace("\r\n", "\n"))
    return "".join(
        char if char in "\n\t" or char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"
        for char in plain
    )


def spreadsheet_text(text: str) -> str:
    """Return other people's text as a cell of a CSV file that a spreadsheet does not take for a formula."""
    return _FORMULA_START.sub("'", text)


def last_lines(text: str, count: int, max_chars: int) -> list[str]:
    """Return the last non-blank lines of a text, each safe for a terminal."""
    return [one_line(line, max_chars) for line in text.splitlines() if line.strip()][-count:]


def table_lines(rows: Sequence[Sequence[str]], text_columns: int) -> list[str]:
    """Return rows as the lines of a table; after the first `text_columns` columns, cells stand at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        texts = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)][:text_columns]
        numbers = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)][text_columns:]
        lines.append("  ".join([*texts, *numbers]).rstrip())
    return lines
