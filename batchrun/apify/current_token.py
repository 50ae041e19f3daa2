"""The API token: what requests carry, and its second reading from where it came."""

from collections.abc import Callable

import anyio.to_thread
import structlog
from pydantic import SecretStr

from batchrun.errors import BatchrunError

#: A shorter token may be a part of any word.
MIN_MASKED_CHARS = 8

_log = structlog.get_logger()


class ApiToken:
    """A token that may be replaced while requests are under way; `read_again` may block."""

    def __init__(self, token: SecretStr | None, read_again: Callable[[], SecretStr | None] | None = None) -> None:
        self._token = token
        self._read_again = read_again
        #: Counts replacements, so that a request knows if the token it carried is still the current one.
        self.version = 0

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries the token, the only place it goes to; {} without a token."""
        return {} if self._token is None else {"Authorization": f"Bearer {self._token.get_secret_value()}"}

    def masked(self, body: bytes) -> bytes:
        """Return an answer's body without the token: a gateway may repeat the headers that it refuses."""
        secret = b"" if self._token is None else self._token.get_secret_value().encode()
        return body.replace(secret, b"***") if len(secret) >= MIN_MASKED_CHARS else body

    async def refresh(self) -> bool:
        """Read the token again; return whether it is another one now."""
        if self._read_again is None:
            return False
        try:
            token = await anyio.to_thread.run_sync(self._read_again)
        except BatchrunError as error:
            _log.warning("token_unreadable", error=str(error))
            return False
        if token is None or token == self._token:
            return False
        self._token = token
        self.version += 1
        _log.warning("token_replaced")
        return True
