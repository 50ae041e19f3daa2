"""Lines for people, on stderr: stdout is for data alone."""

import sys
from contextlib import suppress


def say(text: str) -> None:
    """Print a line for people; a closed stderr (`| head`) does not stop a batch."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
