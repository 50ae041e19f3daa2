import pytest

from batchrun.policy.failure_cause import failure_id, with_exit_code, without_exit_code

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
    ("can't read, won't try", "can't write, won't try"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_particulars_of_a_page_make_no_other_kind(one: str, other: str) -> None:
    """Numbers, addresses, quoted texts and Run ids do not count."""
    assert failure_id("failed", "run-failed", None, one) == failure_id("failed", "run-failed", None, other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_another_cause_makes_another_kind(one: str, other: str) -> None:
    """Status codes, names of properties and the words count."""
    assert failure_id("failed", "run-failed", None, one) != failure_id("failed", "run-failed", None, other)


def test_outcome_error_type_and_exit_code_make_another_kind() -> None:
    """The same message of another outcome is another failure; a message may be missing."""
    kinds = {
        failure_id("failed", "run-failed", None, "x"),
        failure_id("timed_out", "run-failed", None, "x"),
        failure_id("failed", "other", None, "x"),
        failure_id("failed", None, None, None),
        failure_id("failed", "run-failed", 1, "x (exit code 1)"),
        failure_id("failed", "run-failed", 91, "x (exit code 91)"),
    }
    assert len(kinds) == 6


def test_a_kind_keeps_its_name() -> None:
    """People copy it from one command to the next, and from one version to the next."""
    assert failure_id("failed", "run-failed", 91, "403 blocked (exit code 91)") == "184f13af"


def test_a_hostile_message_takes_no_time() -> None:
    """Of a megabyte of quotes, digits or odd characters only the first part is read."""
    for piece in ("'", '"a ', "1", "a1", "http://", "\ud800", "\0", " "):
        assert len(failure_id("failed", "run-failed", None, piece * 1_000_000)) == 8


@pytest.mark.parametrize("exit_code", [None, 0, 91, -9])
def test_an_exit_code_ends_the_message_and_can_be_taken_off(exit_code: int | None) -> None:
    """What was said comes back as it was, even if it ends with an exit code itself."""
    for said in ("no", "(exit code 91) no", "no (exit code 91)"):
        assert without_exit_code(with_exit_code(said, exit_code), exit_code) == said
    assert with_exit_code("no", 91) == "no (exit code 91)"
