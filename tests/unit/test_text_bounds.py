"""TOML and JSON of others: what takes too much is refused in words, before it takes it."""

import tomllib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.config.text_bounds import MAX_BYTES, parse_json, parse_toml

DEEP_KEY = ".".join("a" * 30_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{DEEP_KEY} = 1", "has a key of more than 16 parts"),
        (f"[{DEEP_KEY}]", "more than 16 parts"),
        (f'x = [{{ "a" . {DEEP_KEY} = 1 }}]', "more than 16 parts"),
        (f'x = ["""a"""", {{ {DEEP_KEY} = 1 }}]', "more than 16 parts"),
        (f"x = '''\n'''''\n{DEEP_KEY} = 1", "more than 16 parts"),
        (f'x = "#"\n{DEEP_KEY} = 1', "more than 16 parts"),
        ("'a'" + " . \"a\"" * 16 + " = 1", "more than 16 parts"),
        ("".join(f"a{n}.b.c.d = 1\n" for n in range(2_501)), "too many such keys"),
        ("x = " + "[" * 3_000, "nests more than 64 levels deep"),
        ("x = " + "[" * 64 + "]" * 64, "nests more than 64 levels deep"),
        ("x = " + "1" * 900_000, "a number or a name of more than 3,500 characters"),
        ("x = 0x" + "f" * 900_000, "more than 3,500 characters"),
        ("x = ", "is not valid TOML: Invalid value"),
        ('x = "', "is not valid TOML"),
    ],
)  # fmt: skip
def test_toml_that_takes_too_much_is_refused(text: str, words: str) -> None:
    """Long keys wherever they hide, brackets, digits; in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=words):
            parse_toml(text)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "unit", ['"""\\', '\\"""x\n', '"\\', "'''x", '"\n', "a . ", "a.", "a ", '"""""', "'\\", "#'\n"]
)
def test_no_text_takes_more_than_time_in_proportion(unit: str) -> None:
    """Half-open texts and keys, over and over: tomllib gives up early, and so does what looks before it."""
    text = unit * (MAX_BYTES // 4 // len(unit)) + "="
    with pytest.raises(ValueError, match=r"is not valid TOML|more than"):
        parse_toml(text)


@given(st.text(alphabet="ab\"'\\#.\n= []{},1", max_size=60))
def test_toml_in_bounds_is_read_as_ever(text: str) -> None:
    """The look before it changes nothing."""
    try:
        wanted = tomllib.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match="is not valid TOML"):
            parse_toml(text)
    else:
        assert parse_toml(text) == wanted


def test_a_long_whole_number_can_be_written_again() -> None:
    """In decimal digits, of which Python writes 4,300."""
    assert len(str(parse_toml("x = 0x" + "f" * 3_498)["x"])) < 4_300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 65 + "]" * 65, "nests more than 64 levels deep"),
        ("[" * 3_000, "is not JSON"),
        ('{"a":' * 900 + "1" + "}" * 900, "nests more than 64"),
        ("{", "is not JSON"),
    ],
)
def test_json_that_nests_too_deep_is_refused(text: str, words: str) -> None:
    """Up to 64 levels are read; a number of any length is a float."""
    with pytest.raises(ValueError, match=words):
        parse_json(text)
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_json("1" * 300) == pytest.approx(1.1111111111111112e299)
