"""What in a file's schema stands in the place of a ledger's own tables and indexes.

Others may have made a file: a view in the place of a table can be read without an end, and a trigger carries out what
it likes with each commit.
"""

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from typing import NamedTuple

import orjson

from batchrun.ledger.sqlite.schema_version import SCHEMA_STEPS, SCHEMA_VERSION, text_of

#: More characters than a table of a ledger has.
_MAX_CHARS = 10_000
#: What has the name of a ledger's table or index, or is a trigger on a table; more rows and longer texts than a ledger
#: has are cut. A text may be noted as bytes, which SQLite reads alike.
_SCHEMA = (
    "SELECT (SELECT user_version FROM pragma_user_version), part.type, substr(part.name, 1, 100),"
    " substr(part.tbl_name, 1, 100), substr(CAST(part.sql AS TEXT), 1, ?2) FROM sqlite_schema AS part"
    " JOIN json_each(?1) AS own"
    " ON lower(part.name) = own.value OR (part.type = 'trigger' AND lower(part.tbl_name) = own.value) LIMIT 100"
)
#: A text, which stays as it is; and what differs between versions of SQLite and of this program: the quotes of a word,
#: comments and spaces. Other quotes stay, which no table of a ledger has: for SQLite, what is in them is no comment.
_TOKEN = re.compile(r"""('(?:[^']|'')*')|"(\w+)"|--[^\n]*|\s+""", re.ASCII)


class _Part(NamedTuple):
    """A table or an index."""

    kind: str
    table: str
    #: Without what _TOKEN leaves out.
    sql: str


def foreign_part(connection: sqlite3.Connection) -> str:
    """Return what in a ledger's schema stands in the place of one of its tables or indexes, or is a trigger on one.

    Tables, views and indexes of other names, which a user may have made, are never read. Empty: there is nothing
    foreign; of the file of a newer version, only what is a view or a trigger is.
    """
    own = _own_parts()
    rows = connection.execute(_SCHEMA, (orjson.dumps([*own]).decode(), _MAX_CHARS)).fetchall()
    for version, kind, name, table, sql in rows:
        is_newer = version > SCHEMA_VERSION and kind in ("table", "index")
        is_cut = sql is not None and len(sql) == _MAX_CHARS
        if not is_newer and (is_cut or _Part(kind, table, _normal(sql)) not in own.get(name, ())):
            return f"the {kind} {name!r}"
    return ""


@cache
def _own_parts() -> Mapping[str, set[_Part]]:
    """Return each table and index by its name, as each version has it."""
    own: dict[str, set[_Part]] = {}
    with closing(sqlite3.connect(":memory:")) as connection:
        for step in SCHEMA_STEPS.values():
            connection.executescript(text_of(step))
            rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
            for kind, name, table, sql in rows:
                own.setdefault(name, set()).add(_Part(kind, table, _normal(sql)))
    return own


def _normal(sql: str | None) -> str:
    return "" if sql is None else _TOKEN.sub(r"\1\2", sql).lower()
