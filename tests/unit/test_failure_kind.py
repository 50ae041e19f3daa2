import pytest

from batchrun.policy.failure_kind import failure_id, split_exit_code

ALIKE = [
    ("403 blocked at https://a.example/1", "403 blocked at https://b.example/2?x=y"),
    ("no page 17 of 20", "no page 3 of 9"),
    ("Timeout for selector '#item-12'", "Timeout for selector '#item-7 > a'"),
    ('no such product "red shoe"', 'no such product "blue shoe"'),
    ("page 403 is empty", "page 500 is empty"),
    ("the platform does not know Run abCdEfGhIjKlMnOpQ any more", "the platform does not know Run 0bCdEf any more"),
    ("row 1\n  is  bad", "row 2 is bad"),
    ("same" * 100 + "a", "same" * 100 + "b"),
    ("can't read row 1, won't", "can't read row 2, won't"),
]
DIFFERENT = [
    ("HTTP 403", "HTTP 500"),
    ("403 blocked", "404 blocked"),
    ("failed with status code 502", "failed with status code 404"),
    ("KeyError: 'price'", "KeyError: 'title'"),
    ("blocked", "not found"),
    ("blocked (exit code 91)", "blocked (exit code 1)"),
    ("blocked", "blocked (exit code 1)"),
    ("can't read, won't try", "can't write, won't try"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_particulars_of_a_page_make_no_other_kind(one: str, other: str) -> None:
    """Numbers, addresses, quoted texts and Run ids do not count."""
    assert failure_id("failed", "run-failed", one) == failure_id("failed", "run-failed", other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_another_cause_makes_another_kind(one: str, other: str) -> None:
    """Status codes, exit codes, names of properties and the words count."""
    assert failure_id("failed", "run-failed", one) != failure_id("failed", "run-failed", other)


def test_outcome_and_error_type_make_another_kind() -> None:
    """The same message of another outcome is another failure; a message may be missing."""
    kinds = {
        failure_id("failed", "run-failed", "x"),
        failure_id("timed_out", "run-failed", "x"),
        failure_id("failed", "other", "x"),
        failure_id("failed", None, None),
    }
    assert len(kinds) == 4


def test_a_kind_keeps_its_id() -> None:
    """People copy it from one command to the next, across versions."""
    assert failure_id("failed", "run-failed", "403 blocked (exit code 91)") == "184f13af"


def test_a_hostile_message_takes_no_time() -> None:
    """Of a megabyte of quotes, digits or odd characters only the first part is read."""
    for piece in ("'", '"a ', "1", "a1", "http://", "\ud800", "\0", " "):
        assert len(failure_id("failed", "run-failed", piece * 1_000_000)) == 8


def test_the_exit_code_is_read_from_the_end() -> None:
    """Without one, the message is unchanged."""
    assert split_exit_code("no (exit code 91)") == ("no", 91)
    assert split_exit_code("x" * 100 + " (exit code -9)") == ("x" * 100, -9)
    assert split_exit_code("(exit code 91) no") == ("(exit code 91) no", None)
