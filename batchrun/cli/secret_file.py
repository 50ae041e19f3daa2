"""A file with secrets as the value of an option: its name is not shown, which may be the secret itself by mistake."""

import sys
from pathlib import Path
from typing import NamedTuple

import typer


class SecretFile(NamedTuple):
    #: As a message shows it, once there is such a file.
    name: str
    text: str


def read_secret_file(value: str) -> SecretFile:
    """Read a file, `-` for stdin.

    Raises:
        BadParameter: it cannot be read.
    """
    if value == "-":
        return SecretFile("<stdin>", sys.stdin.read())
    try:
        return SecretFile(value, Path(value).read_text("utf-8", "replace"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is no name of a file"
        raise typer.BadParameter(f"the file cannot be read: {reason}; name a file that holds the token") from None
