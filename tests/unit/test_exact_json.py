"""JSON that keeps all digits of whole numbers."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.model import read_json, write_json

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab0"), inner, max_size=4),
)  # fmt: skip


@given(values)
def test_what_was_written_is_read_back(value: Any) -> None:
    """Every whole number comes back with all its digits; a sorted text does not depend on the order of properties."""
    assert read_json(write_json(value)) == value
    again = write_json(json.loads(json.dumps(value, sort_keys=True)), orjson.OPT_SORT_KEYS)
    assert write_json(value, orjson.OPT_SORT_KEYS) == again


@given(st.integers(-(2**63), 2**64 - 1), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_fits_64_bits_is_written_as_ever(number: int, text: str) -> None:
    """Derived job keys of earlier versions depend on it."""
    assert write_json({"n": number, "t": text}) == orjson.dumps({"n": number, "t": text})


@pytest.mark.parametrize(
    "text", ["18446744073709551617", "-9223372036854775809", '["12345678901234567890123", 12345678901234567890123]']
)
def test_digits_beyond_64_bits_are_kept(text: str) -> None:
    """Where orjson would round them."""
    assert read_json(text) == read_json(text.encode()) == json.loads(text)


def test_what_no_consumer_reads_is_read_as_orjson_does() -> None:
    """Thousands of digits become a float or an error of orjson; neither hides a number of another type."""
    assert read_json("[1" + "0" * 300 + "]") == [10**300]
    with pytest.raises(orjson.JSONDecodeError):
        read_json("1" + "0" * 5000)
    with pytest.raises(orjson.JSONDecodeError):
        read_json("[12345678901234567890123")
    with pytest.raises(orjson.JSONEncodeError):
        write_json({"n": 2**70, "t": "\ud800"})
