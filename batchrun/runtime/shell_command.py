"""Commands that a message gives a person to paste into a shell: a name in them is never more than a name."""

import re
import shlex

#: A `~` within a word, as in a task's name: shells replace it only where a word, or a part after `:` or `=`, begins.
_INNER_TILDE = re.compile(r"(?<=\w)~")


def shell_command(*words: object) -> str:
    """Return a command whose words, such as paths that others chose, reach the program as they are.

    Characters that cannot be printed are replaced, so that nothing that a terminal leaves out takes a quote with it.
    """
    return " ".join(_quoted(_printable(str(word))) for word in words)


def _quoted(word: str) -> str:
    """Return a word in quotes, where a shell needs them: people write a task's name, `user~name`, without any."""
    bare = _INNER_TILDE.sub("", word)
    return word if bare and shlex.quote(bare) == bare else shlex.quote(word)


def _printable(word: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in word)
