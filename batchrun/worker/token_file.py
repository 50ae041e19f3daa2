"""The worker's token, in a file of its data directory: a process that can read it may command the worker."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import NewType

from batchrun.errors import ConfigError
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import private_opener, refuse_anothers

Token = NewType("Token", str)


def read_or_make_token(file: Path) -> Token:
    """Return the token of a data directory; create it if it is missing, readable by its owner only.

    Raises:
        OutputError: the file cannot be read or written, is a link, or is another user's.
        ConfigError: the file is empty.
    """
    with (
        explaining(file),
        suppress(FileExistsError),
        os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened,
    ):
        opened.write(f"{secrets.token_urlsafe(24)}\n")
    with explaining(file), open(file, encoding="ascii", errors="replace", opener=private_opener) as opened:
        refuse_anothers(file, os.fstat(opened.fileno()))
        token = opened.read().strip()
    if not token:
        raise ConfigError("holds no token; delete it, and the next start of the worker makes one", file=file)
    return Token(token)
