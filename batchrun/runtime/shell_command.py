"""Commands that a message gives a person to paste into a shell: a name in them is never more than a name."""

import shlex


def shell_command(*words: object) -> str:
    """Return a command whose words, such as paths that others chose, reach the program as they are.

    Characters that cannot be printed are replaced, so that nothing that a terminal leaves out takes a quote with it.
    """
    return shlex.join(_printable(str(word)) for word in words)


def _printable(word: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in word)
