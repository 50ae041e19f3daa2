"""The only place that prints text: what comes from outside cannot control the terminal.

Lines for people go to stderr, answers to stdout. JSON, files and pages are data, and are written as they are, except to
a terminal.
"""

import codecs
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate, takewhile

from batchrun.words.terminal_text import printable

#: Columns of a terminal that does not say how many it has.
_USUAL_WIDTH = 80
#: Erases the row of the cursor; moves it up by a row. To erase all below it in one go would put the screen into tmux's
#: history where the lines stand at its top.
_ERASE, _UP = "\x1b[2K", "\x1b[A"
#: Of the data that a terminal gets in pieces; a process has one stdout.
_decoder = codecs.getincrementaldecoder("utf-8")("replace")


def say(text: str) -> None:
    """Print one line for people on stderr, above live lines; a closed stderr (`| head`) does not stop a batch.

    Line ends within the text, as in a name from outside, become blanks.
    """
    line = _in_one_line(text)
    with suppress(OSError):
        if _drawn is not None:
            _drawn.print_above(line)
        else:
            print(line, file=sys.stderr, flush=True)


def say_lines(lines: Iterable[str]) -> None:
    """Print lines for people."""
    for line in lines:
        say(line)


def say_text(text: str) -> None:
    """Print a text that may have several lines, such as an error's."""
    say_lines(text.split("\n"))


def answer(text: str, *, flush: bool = False) -> None:
    """Print one line of an answer on stdout."""
    print(_in_one_line(text), flush=flush)


def answer_lines(lines: Iterable[str]) -> None:
    """Print the lines of an answer."""
    for line in lines:
        answer(line)


def show_page(text: str) -> None:
    """Print a whole text on stdout, as its lines are."""
    print(printable(text), end="", flush=True)


def _in_one_line(text: str) -> str:
    return printable(" ".join(text.splitlines()))


def write_data(data: bytes) -> None:
    """Write data on stdout: as it is, or as text without what controls a terminal, if stdout is one."""
    if sys.stdout.isatty():
        show_page(_decoder.decode(data))
        return
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class LiveLines:
    """Lines at the end of stderr, a terminal, which are drawn again and again; other lines are printed above them."""

    def __init__(self) -> None:
        #: The lines that the terminal shows now.
        self._lines: list[str] = []

    @property
    def width(self) -> int:
        """Columns of the terminal, less the last one, behind which the next row begins."""
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        except OSError:
            columns = 0
        return (columns or _USUAL_WIDTH) - 1

    def draw(self, text: str) -> None:
        """Replace the lines; each is cut at the width."""
        width = self.width
        lines = [_cut(line, width) for line in printable(text).expandtabs(4).splitlines()]
        if lines != self._lines:
            self._write(self._erase() + "\n".join(lines))
            self._lines = lines

    def print_above(self, text: str) -> None:
        """Print a line above the lines."""
        self._write(self._erase() + text + "\n" + "\n".join(self._lines))

    def clear(self) -> None:
        """Erase the lines."""
        self._write(self._erase())
        self._lines = []

    def _erase(self) -> str:
        """Return what erases the lines. A terminal that has become narrower since shows a line in several rows."""
        rows = sum(_rows(line, self.width + 1) for line in self._lines)
        return "\r" + _ERASE + (_UP + _ERASE) * (rows - 1) if rows else ""

    @staticmethod
    def _write(text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


def can_redraw() -> bool:
    """True if stderr is a terminal whose lines can be drawn again."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


#: The lines that `say` prints above; a process has one terminal.
_drawn: LiveLines | None = None


@contextmanager
def live_lines() -> Iterator[LiveLines]:
    """Give lines that are drawn until the context ends, which erases them."""
    global _drawn  # noqa: PLW0603 - the state of the one terminal
    _drawn = LiveLines()
    try:
        yield _drawn
    finally:
        _drawn.clear()
        _drawn = None


def _rows(line: str, width: int) -> int:
    # xterm cuts its rows when it becomes narrower; others wrap them.
    is_cut = "XTERM_VERSION" in os.environ and "TMUX" not in os.environ
    return 1 if is_cut else max(1, -(-_cells(line) // width))


def _cut(line: str, width: int) -> str:
    if _cells(line) <= width:
        return line
    cells, room = accumulate(map(_cells, line)), max(0, width - 1)
    kept = sum(1 for _ in takewhile(lambda taken: taken <= room, cells))
    return f"{line[:kept]}…"


def _cells(line: str) -> int:
    """Return the columns that a line takes: two for each wide character, none for a combining one."""
    if line.isascii():
        return len(line)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415 - few lines need it

    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in line)
