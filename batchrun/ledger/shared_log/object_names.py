"""The names of a log's entries and objects in a directory or bucket; they are part of the documented format."""

#: Digits of an entry's number, so that a listing is in order.
_DIGITS = 12


def entry_name(number: int) -> str:
    """Return the path of an entry, relative to the log's place."""
    return f"log/{number:0{_DIGITS}}.zst"


def object_name(name: str) -> str:
    """Return the path of an object, relative to the log's place."""
    return f"objects/{name}.zst"
