"""The usage of accounts, by day and usage item."""

from collections.abc import Mapping
from sqlite3 import Connection


def add(connection: Connection, user_id: str, day: str, used: Mapping[str, tuple[float, float]]) -> None:
    """Add quantities and dollars to a day's sums; `used` is by usage item."""
    connection.executemany(
        "INSERT INTO usage VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "quantity = quantity + excluded.quantity, usd = usd + excluded.usd",
        [(user_id, day, name, quantity, usd) for name, (quantity, usd) in used.items()],
    )


def read(connection: Connection, user_id: str, first_day: str, last_day: str) -> list[tuple[str, str, float, float]]:
    """Return (day, usage item, quantity, dollars) from the first to the last day, in order of days."""
    return connection.execute(
        "SELECT day, name, quantity, usd FROM usage WHERE user_id = ? AND day BETWEEN ? AND ? ORDER BY day, name",
        (user_id, first_day, last_day),
    ).fetchall()


def read_totals(connection: Connection, first_day: str) -> dict[str, float]:
    """Return the dollars of each account since a day."""
    rows = connection.execute("SELECT user_id, sum(usd) FROM usage WHERE day >= ? GROUP BY user_id", (first_day,))
    return dict(rows.fetchall())
