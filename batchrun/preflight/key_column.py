"""Which column of a job file identifies its lines."""

from collections.abc import Sequence

from batchrun.preflight.job_column import JobColumn, name_words

#: Words in the name of a column that identifies a line.
_ID_WORDS = frozenset(
    {
        *("id", "sku", "key", "asin", "ean", "gtin", "isbn", "uuid", "guid", "slug", "upc", "mpn", "ref", "reference"),
        *("nr", "nummer", "artikelnummer", "artikelnr", "artnr", "bestellnummer", "bestellnr", "produktnummer"),
        *("produktnr", "kennung"),
    }
)


def key_column(columns: Sequence[JobColumn]) -> str | None:
    """Return the column that identifies a line: named like an identifier, and without gaps and repetitions."""
    named = [column for column in columns if name_words(column.name) & _ID_WORDS]
    good = [column for column in named if column.is_unique and not column.has_empty and column.values]
    return min(good, key=lambda column: len(name_words(column.name))).name if good else None
