"""What is said to a person: lines on stderr, so that stdout is for data alone."""

import sys
from contextlib import suppress


def say(text: str) -> None:
    """Print a line for people; that nobody listens any more (`| head`) stops no batch."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
