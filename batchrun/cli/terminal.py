"""The only place that prints text: what comes from outside cannot control the terminal.

Lines for people go to stderr, answers to stdout. JSON, files and pages are data, and are written as they are.
"""

import sys
from contextlib import suppress

from batchrun.report.terminal_text import printable


def say(text: str) -> None:
    """Print a line for people on stderr; a closed stderr (`| head`) does not stop a batch."""
    with suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def answer(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Print an answer on stdout."""
    print(printable(text), end=end, flush=flush)
