"""A second look at a token that an answer refused with 401: one such answer alone may be a platform's mistake."""

from collections.abc import Awaitable, Callable

import anyio

from batchrun.apify.current_token import ApiToken
from batchrun.errors import TokenUnconfirmed, Unauthorized

#: 401s of one request in a row that a second look did not confirm; the next one is believed.
MAX_UNCONFIRMED = 3
#: Seconds for which the outcome of a second look at the token holds for all requests.
LOOK_HOLDS_S = 1.0


class SecondLook:
    """Decides whether a 401 stands, for all requests that carry a token.

    Args:
        token: may be replaced meanwhile.
        is_refused: reads the token again, and asks the account's own endpoint if it is still the same.
    """

    def __init__(self, token: ApiToken, is_refused: Callable[[], Awaitable[bool]]) -> None:
        self._token = token
        self._is_refused = is_refused
        self._looking = anyio.Lock()
        #: When the last look ended (monotonic), and whether the API refused the token.
        self._last: tuple[float, bool] | None = None
        #: Moments in a row at which starts were refused with 401, and the last of them (monotonic).
        self._refused_starts = 0
        self._start_refused_at = float("-inf")

    async def is_confirmed(self, error: Unauthorized, sent_with: int) -> bool:
        """Return whether a 401 stands: the token was not replaced, and the account's own endpoint refuses it too."""
        if error.status != 401:
            return True  # the token is known, and may not do this
        async with self._looking:
            if self._token.version != sent_with:
                return False
            now = anyio.current_time()
            if self._last is None or now - self._last[0] > LOOK_HOLDS_S:
                self._last = (now, await self._is_refused())
            return self._last[1]

    async def confirm_start(self, error: Unauthorized, sent_with: int) -> None:
        """Look a second time after a start was refused with 401; if this returns, the caller raises that.

        Raises:
            TokenUnconfirmed: the API accepts the token, or does not answer, or the token was replaced.
        """
        now = anyio.current_time()
        if now - self._start_refused_at > LOOK_HOLDS_S:  # else sent together with the one that was counted
            self._refused_starts += 1
            self._start_refused_at = now
        if self._refused_starts > MAX_UNCONFIRMED or await self.is_confirmed(error, sent_with):
            return
        raise TokenUnconfirmed(
            status=error.status, type=error.type, message=error.message, method=error.method, path=error.path
        ) from error

    def note_accepted_start(self) -> None:
        """Note that a start was accepted."""
        self._refused_starts = 0
