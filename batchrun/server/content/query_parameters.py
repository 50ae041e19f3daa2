"""Query parameters, read by type and bounds. A whole number may be 60.0: the API types it "number/double"."""

import math
from urllib.parse import parse_qsl

from batchrun.server.error_answers import value_invalid
from batchrun.server.ids import parse_iso

_TRUE, _FALSE = frozenset({"1", "true"}), frozenset({"", "0", "false"})
#: The limit of a page of items if none is given. Source: the platform's own answers.
UNLIMITED = 999_999_999_999
#: Max entries of other lists. Source: the API reference, "Pagination".
MAX_LIST_LIMIT = 1000


class Query:
    """The parameters of one request. Of a repeated parameter the last value counts.

    Every method raises ErrorAnswer 400 `invalid-value`, naming the parameter, for a value that cannot be used.
    """

    __slots__ = ("_values",)

    def __init__(self, raw: str) -> None:
        try:
            self._values = dict(parse_qsl(raw, keep_blank_values=True, max_num_fields=100)) if raw else {}
        except ValueError:
            raise value_invalid("The query has too many parameters") from None

    def text(self, name: str) -> str | None:
        """Return a parameter as it is; None if it is missing or empty."""
        return self._values.get(name) or None

    def names(self, name: str) -> list[str]:
        return [part.strip() for part in self._values.get(name, "").split(",") if part.strip()]

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """Return a flag: 1 or true, 0, false or empty."""
        value = self._values.get(name)
        if value is None:
            return default
        if value.lower() not in _TRUE | _FALSE:
            raise value_invalid(f"Parameter {name} must be 1, 0, true or false")
        return value.lower() in _TRUE

    def number(self, name: str) -> float | None:
        """Return a finite number that is not negative."""
        if (value := self.text(name)) is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise value_invalid(f"Parameter {name} must be a number that is not negative")
        return number

    def integer(self, name: str, *, maximum: int = UNLIMITED) -> int:
        """Return a whole number, clamped to the maximum; 0 if it is missing."""
        number = self.number(name) or 0
        if number != int(number):
            raise value_invalid(f"Parameter {name} must be a whole number")
        return min(int(number), maximum)

    def time_ms(self, name: str) -> int | None:
        """Return a point in time, in wall milliseconds."""
        value = self.text(name)
        return parse_iso(value, name) if value is not None else None

    def page(self, max_limit: int = MAX_LIST_LIMIT) -> tuple[int, int, bool]:
        """Return offset, limit and desc. A missing limit, or 0, means the largest page."""
        limit = self.integer("limit", maximum=max_limit) or max_limit
        return self.integer("offset"), limit, self.boolean("desc")
