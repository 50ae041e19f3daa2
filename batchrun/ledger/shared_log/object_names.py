"""The names of a log's entries and objects in a directory or bucket, a part of the documented format, and bounds."""

#: Digits of an entry's number, so that a listing is in order.
_DIGITS = 12
#: Max bytes that are read of an entry and of an object, so that a hostile one does not fill the memory. A fleet's page
#: and a pack of entries are the largest that batchrun writes.
MAX_READ_ENTRY_BYTES = 8 << 20
MAX_READ_OBJECT_BYTES = 24 << 20


def entry_name(number: int) -> str:
    """Return the path of an entry, relative to the log's place."""
    return f"log/{number:0{_DIGITS}}.zst"


def object_name(name: str) -> str:
    """Return the path of an object, relative to the log's place."""
    return f"objects/{name}.zst"
