"""Limits what is read at once: by bytes, or by the page of a list."""

from collections.abc import Iterable, Sequence
from sqlite3 import Connection
from typing import Any, TypeVar

#: Max bytes of a page of documents. A thousand Runs have 3 MB.
_MAX_PAGE_BYTES = 32 << 20

Row = TypeVar("Row", bound=tuple[Any, ...])


def up_to(max_bytes: int, rows: Iterable[Row]) -> tuple[list[Row], bool]:
    """Return the first rows, up to `max_bytes` in their last columns if these are texts, and whether rows are left out.

    The first row is always returned, however large it is.
    """
    taken: list[Row] = []
    size = 0
    for row in rows:
        size += len(row[-1]) if isinstance(row[-1], bytes | str) else 0
        if size > max_bytes and taken:
            return taken, True
        taken.append(row)
    return taken, False


def counted_page(
    connection: Connection,
    columns: str,
    matching: str,
    args: Sequence[object],
    order_by: Sequence[str],
    offset: int,
    limit: int,
    is_descending: bool,
) -> tuple[int, list[Any]]:
    """Return the number of rows that match ("runs WHERE id = ?"), and a page of them, shorter if they are large."""
    order = ", ".join(f"{column} {'DESC' if is_descending else 'ASC'}" for column in order_by)
    (total,) = connection.execute(f"SELECT count(*) FROM {matching}", args).fetchone()  # noqa: S608 - own text
    page = f"SELECT {columns} FROM {matching} ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608 - own text
    return total, up_to(_MAX_PAGE_BYTES, connection.execute(page, [*args, limit, offset]))[0]
