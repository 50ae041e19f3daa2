"""Lines that are drawn again and again at the end of a terminal, which wraps its rows anew when its width changes."""

import os
import re

import pytest

from batchrun.cli.terminal import live_lines, say

LONG = "1,200/10,000 done · 250 running · 10 not succeeded · 20/s · 7 min 20 s to go · $1.50 (not final)"


class ScreenOfTerminal:
    """The rows of a terminal that understands what is written to it, and wraps long lines as most terminals do."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        #: Each row's text, and whether the next row continues its line.
        self.rows: list[tuple[str, bool]] = [("", False)]
        self.at = 0

    def resize(self, columns: int) -> None:
        """Wrap the lines at another width; the cursor stays behind the same character, here the last one."""
        lines: list[str] = []
        begins = True
        for text, continues in self.rows[: self.at + 1]:  # below the cursor, all is empty
            lines = [*lines, text] if begins else [*lines[:-1], lines[-1] + text]
            begins = not continues
        self.columns, self.rows, self.at = columns, [], 0
        for line in lines:
            pieces = [line[n : n + columns] for n in range(0, len(line), columns)] or [""]
            self.rows += [(piece, piece is not pieces[-1]) for piece in pieces]
        self.at = len(self.rows) - 1

    def feed(self, written: str) -> None:
        """Write text and control sequences."""
        for part in re.findall(r"\x1b\[\d*[A-Z]|.", written, re.DOTALL):
            match part:
                case "\x1b[A":
                    assert self.at > 0, "the cursor leaves the screen"
                    self.at -= 1
                case "\x1b[2K":
                    self.rows[self.at] = ("", False)
                case "\n":
                    self._next_row(continues=False)
                case "\r":
                    pass
                case _:
                    assert part.isprintable(), part
                    if len(self.rows[self.at][0]) == self.columns:
                        self._next_row(continues=True)
                    self.rows[self.at] = (self.rows[self.at][0] + part, False)

    def _next_row(self, *, continues: bool) -> None:
        self.rows[self.at] = (self.rows[self.at][0], continues)
        self.at += 1
        if self.at == len(self.rows):
            self.rows.append(("", False))

    @property
    def text(self) -> list[str]:
        """The rows, without empty ones at the end."""
        rows = [text for text, _ in self.rows]
        while rows and not rows[-1]:
            rows.pop()
        return rows


def terminal(monkeypatch: pytest.MonkeyPatch) -> ScreenOfTerminal:
    """Put a terminal of 100 columns in the place of stderr; pytest gives each phase of a test another stderr."""
    made = ScreenOfTerminal(100)

    class Stream:
        write = staticmethod(made.feed)

        def flush(self) -> None:
            """Nothing is held back."""

        def fileno(self) -> int:
            """Any number: it is asked for its size only."""
            return 2

    monkeypatch.setattr("sys.stderr", Stream())
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((made.columns, 24)))
    monkeypatch.delenv("XTERM_VERSION", raising=False)
    return made


@pytest.mark.parametrize("widths", [(100, 60, 40), (100, 30, 100), (40, 100), (100, 7, 8)])
def test_no_line_stays_behind_when_the_terminal_is_resized(
    monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...]
) -> None:
    """Narrower or wider, once or often: only what was printed above stays."""
    screen = terminal(monkeypatch)
    say("before")
    with live_lines() as live:
        for number, width in enumerate(widths):
            screen.resize(width)
            live.draw(f"{number} {LONG}\nwaiting: {LONG}")
            assert len(screen.text) == 3
            assert all(len(row) < width for row in screen.text[1:])
    assert screen.text == ["before"]


def test_what_is_said_stands_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its order, whole, and the lines go on below it."""
    screen = terminal(monkeypatch)
    with live_lines() as live:
        live.draw("1 done\nwaiting")
        say("news")
        assert screen.text == ["news", "1 done", "waiting"]
        screen.resize(4)
        say("more")
        live.draw("2 done")
        assert screen.text[-2:] == ["more", "2 …"]
    say("end")
    assert screen.text[-2:] == ["more", "end"]


def test_wide_characters_count_as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of them is cut before the terminal would wrap it; nothing in it controls the terminal."""
    screen = terminal(monkeypatch)
    with live_lines() as live:
        live.draw("漢" * 60 + "\x1b[2J")
        assert screen.text == ["漢" * 49 + "…"]
