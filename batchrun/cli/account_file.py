"""The files that hold the tokens of a server's accounts: `serve --token-file` and `--account-file`."""

from collections.abc import Iterable, Mapping

from batchrun.cli.secret_file import SecretFile
from batchrun.errors import ConfigError
from batchrun.server.accounts.account_book import MADE_TOKEN, is_username


def read_token(file: SecretFile) -> str:
    """Return the token that a file holds.

    Raises:
        ConfigError: it holds none.
    """
    return _checked(file.text.strip(), file.name)


def token_in(environ: Mapping[str, str]) -> str | None:
    """Return the token in APIFY_TOKEN; None if it is not set, or empty.

    Raises:
        ConfigError: it cannot be one.
    """
    token = environ.get("APIFY_TOKEN", "")
    return _checked(token.strip(), "APIFY_TOKEN") if token else None


def read_accounts(names: Iterable[str], file: SecretFile | None) -> dict[str, str | None]:
    """Return names and tokens of accounts, given as names or as lines NAME=TOKEN or NAME of a file.

    Raises:
        ConfigError: a name has a token with it, or a token cannot be one.
    """
    found: dict[str, str | None] = dict.fromkeys(names)
    if any("=" in name for name in found):
        raise ConfigError(
            "--account takes a name: other users of this machine can read a token on a command line; "
            "write NAME=TOKEN into a file for --account-file"
        )
    for line_no, line in enumerate(file.text.splitlines() if file is not None else (), start=1):
        name, equals, token = line.strip().partition("=")
        if name and not name.startswith("#"):
            assert file is not None
            if not is_username(name.strip()) or _is_token(name.strip()):  # it is not shown
                raise ConfigError(
                    f"{file.name}:{line_no}: must be NAME=TOKEN, or a NAME of letters, digits, dots, - and _"
                )
            found[name.strip()] = _checked(token.strip(), f"{file.name}:{line_no}") if equals else None
    return found


def _is_token(name: str) -> bool:
    """True if a name looks like a token of the platform, or of a server of ours."""
    return name.startswith(("apify_api_", MADE_TOKEN))


def _checked(token: str, source: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{source}: must hold a token, printable and without spaces")
    return token
