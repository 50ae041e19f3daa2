"""The tables that a ledger has by its version, and what in a file's schema takes their place.

Others may have made a file: a view in the place of a table can be read without an end, and a trigger carries out what
it likes with each commit.
"""

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

import orjson

#: What brings a file to each version, in order; the first step makes its tables.
SCHEMA_STEPS = {
    4: "ledger.sql",
    5: "ledger_5.sql",
    6: "ledger_6.sql",
    7: "ledger_7.sql",
    8: "ledger_8.sql",
    9: "ledger_9.sql",
}
#: The oldest version of a file that can be brought up to date.
OLDEST_VERSION = min(SCHEMA_STEPS)
#: The version of a file that is up to date.
SCHEMA_VERSION = max(SCHEMA_STEPS)
#: What has the name of a ledger's table or index, or is a trigger on a table; more rows and longer texts than a ledger
#: has are cut.
_SCHEMA = (
    "SELECT (SELECT user_version FROM pragma_user_version), part.type, substr(part.name, 1, 100),"
    " substr(part.tbl_name, 1, 100), substr(part.sql, 1, 10000) FROM sqlite_schema AS part JOIN json_each(?1) AS own"
    " ON lower(part.name) = own.value OR (part.type = 'trigger' AND lower(part.tbl_name) = own.value) LIMIT 100"
)
#: What differs between versions of SQLite and of this program.
_COMMENT_OR_SPACE = re.compile(r'--[^\n]*|[\s"]+')


class _Part(NamedTuple):
    """A table or an index."""

    kind: str
    table: str
    #: Without comments, spaces and quotes, which differ between versions of SQLite and of this program.
    sql: str


def foreign_part(connection: sqlite3.Connection) -> str:
    """Return what in a ledger's schema stands in the place of one of its tables or indexes, or is a trigger on one.

    Tables, views and indexes of other names, which a user may have made, are never read. Empty: there is nothing
    foreign; of the file of a newer version, only what is a view or a trigger is.
    """
    own = _own_parts()
    rows = connection.execute(_SCHEMA, (orjson.dumps([*own]).decode(),)).fetchall()
    for version, kind, name, table, sql in rows:
        is_newer = version > SCHEMA_VERSION and kind in ("table", "index")
        if not is_newer and _Part(kind, table, _normal(sql)) not in own.get(name, ()):
            return f"the {kind} {name!r}"
    return ""


def steps_after(version: int) -> str:
    """Return the SQL that brings a ledger of a version up to date; empty: it is."""
    return "\n".join(_text_of(step) for number, step in SCHEMA_STEPS.items() if number > version)


@cache
def _own_parts() -> Mapping[str, set[_Part]]:
    """Return each table and index by its name, as each version has it."""
    own: dict[str, set[_Part]] = {}
    with closing(sqlite3.connect(":memory:")) as connection:
        for step in SCHEMA_STEPS.values():
            connection.executescript(_text_of(step))
            rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
            for kind, name, table, sql in rows:
                own.setdefault(name, set()).add(_Part(kind, table, _normal(sql)))
    return own


def _text_of(step: str) -> str:
    return Path(__file__).with_name(step).read_text("utf-8")


def _normal(sql: str | None) -> str:
    return "" if sql is None else _COMMENT_OR_SPACE.sub("", sql).lower()
