"""What is printed for people controls no terminal, and no spreadsheet computes it."""

import sys

import pytest

from batchrun.cli.terminal import answer, answer_lines, can_redraw, say, say_lines, say_text, write_data
from batchrun.words.terminal_text import spreadsheet_text

HOSTILE = "key \x1b[2J\x1b]0;owned\x07\u202e\x9b31m"


def test_no_text_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither on stdout nor on stderr; that nothing else in the command line prints is a rule of the linter (T201)."""
    say(HOSTILE)
    answer(HOSTILE)
    shown = capsys.readouterr()
    assert shown.out == shown.err == "key \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}31m\n"


def test_a_line_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Also with a column's name that holds a line's end; a text of our own has the lines that it has."""
    name = "a\nnext  curl\r\n\x85b"
    say(name)
    say_lines([name])
    answer(name)
    answer_lines([name])
    shown = capsys.readouterr()
    assert shown.out == shown.err == "a next  curl  b\n" * 2
    say_text("a:\n  b")
    assert capsys.readouterr().err == "a:\n  b\n"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_data_controls_no_terminal(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    """Items and values are bytes of strangers; in a file or a pipe they are as they are, a cut character too."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    data = HOSTILE.encode() + "é\n".encode()
    for piece in (data[:-2], data[-2:]):
        write_data(piece)
    cleaned = "key \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}31mé\n"
    assert capsysbinary.readouterr().out == (cleaned.encode() if is_terminal else data)


@pytest.mark.parametrize(
    ("is_terminal", "term", "can"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_lines_are_drawn_again_on_a_terminal_that_can(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, term: str, can: bool
) -> None:
    """A file, a pipe and a dumb terminal get plain lines, from `run` and `worker submit --wait`."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", term)
    assert can_redraw() is can


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\tA1", "\rA1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20A"]
)
def test_a_spreadsheet_computes_no_text_of_others(text: str) -> None:
    """A quote before it makes it text."""
    assert spreadsheet_text(text) == f"'{text}"


@pytest.mark.parametrize("separator", [";", "\t", "\n", "\r\n"])
def test_no_part_of_a_cell_is_computed_where_the_spreadsheet_divides_it(separator: str) -> None:
    """It separates cells by semicolons in many countries, and does not see quotes that begin within a line."""
    assert spreadsheet_text(f"a{separator}=1+1{separator}b-1") == f"a{separator}'=1+1{separator}b-1"
    # The quote is written twice: an empty text before the formula.
    assert spreadsheet_text(f'a{separator}"=1+1') == f"a{separator}'\"=1+1"


@pytest.mark.parametrize("text", ["", "group", "2026-11-29", "a=1", "a; b\nc", '"=1"', 'a;"b"'])
def test_other_cells_stay_as_they_are(text: str) -> None:
    """No group is renamed."""
    assert spreadsheet_text(text) == text
