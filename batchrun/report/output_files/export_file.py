"""A file of JSON lines as a table, CSV or Excel: read twice, for the columns and for the rows."""

from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import orjson

from batchrun.errors import LedgerError
from batchrun.output.committed_lines import committed_lines
from batchrun.runtime.shell_command import shell_command
from batchrun.server.content.item_formats import FORMATS, add_columns
from batchrun.server.content.item_views import leaves
from batchrun.server.content.query_parameters import Query
from batchrun.words.terminal_text import spreadsheet_text

#: The formats, by what `format` says.
TABLE_FORMATS = ("csv", "xlsx")
_PIECE_BYTES = 1 << 20


def content_type_of(table_format: str) -> str:
    """Return the content type of a format."""
    return FORMATS[table_format].content_type


def table_pieces(file: Path, end: int, table_format: str, *, is_exact: bool) -> Generator[bytes]:
    """Yield the first `end` bytes of a file of lines as a table; it takes little memory, whatever their number.

    If it need not be exact, no text in it is a formula; in Excel's format none ever is.
    """
    change = _without_formulas if table_format == "csv" and not is_exact else _unchanged
    columns: dict[str, None] = {}
    with closing(_pages(file, end, change)) as pages:
        for page in pages:
            add_columns(columns, page)
    writer = FORMATS[table_format].writer(list(columns), Query(""), "")
    yield writer.opening
    with closing(_pages(file, end, change)) as pages:
        for page in pages:
            for piece, _ in writer.pieces(page):
                yield piece
    yield writer.closing()


def _object(line: bytes) -> dict[str, Any]:
    value = orjson.loads(line)
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def _unchanged(line: Any) -> Any:
    return line


def _without_formulas(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line as its cells, of which no text is a formula, nor is a column's name."""
    return {spreadsheet_text(path): _guarded(cell) for path, cell in leaves(line, line).items()}


def _guarded(cell: Any) -> Any:
    if isinstance(cell, dict | list):
        with suppress(orjson.JSONEncodeError):  # too deep: no part of it is written
            cell = orjson.dumps(cell).decode()
    return spreadsheet_text(cell) if isinstance(cell, str) else cell


def _pages(file: Path, end: int, change: Callable[[Any], Any]) -> Generator[list[Any]]:
    page, size = list[Any](), 0
    for line in committed_lines(file, end):
        try:
            page.append(change(_object(line)))
        except ValueError as error:
            repair = shell_command("batchrun", "repair", file.parent)
            raise LedgerError(f"{file}: has a line that is no JSON object; `{repair}` writes it again") from error
        size += len(line)
        if size >= _PIECE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page
