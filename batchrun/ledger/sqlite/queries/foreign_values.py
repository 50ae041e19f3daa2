"""Values that are not of the type of their column: SQLite takes any, and others may have made the file."""

from batchrun.ledger.sqlite.connection import Connection

#: The tables whose rows are shown to people.
_TABLES = ("job", "past_round", "attempt", "duplicate")
#: A whole number of the platform may be a fraction one day.
_NUMBER = "'integer', 'real'"
_STORED_AS = {"INTEGER": _NUMBER, "REAL": _NUMBER, "TEXT": "'text'", "BLOB": "'blob'"}


def foreign_value(connection: Connection) -> str | None:
    """Return where such a value stands; None: there is none. Takes a second for a million jobs."""
    for table in _TABLES:
        columns = connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall()
        checks = {name: f"""typeof("{name}") NOT IN ({_STORED_AS[kind]}, 'null')""" for name, kind in columns}
        row = connection.execute(
            f"SELECT {', '.join(checks.values())} FROM {table} WHERE {' OR '.join(checks.values())} LIMIT 1"
        ).fetchone()
        if row is not None:
            name = next(name for name, is_foreign in zip(checks, row, strict=True) if is_foreign)
            return f"{table}.{name} holds a value of another type"
    return None
