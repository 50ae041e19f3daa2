"""Who is asking: the account's token, the token of a live Run, or nobody."""

import hashlib
import hmac
from collections.abc import Callable
from enum import Enum

from batchrun.server.faults import Fault

_RUN_TOKEN_PREFIX = "batchrun_run_"  # noqa: S105 - not a secret


class Caller(Enum):
    """On whose behalf a request comes."""

    NOBODY = "nobody"
    ACCOUNT = "account"
    #: An Actor at work for the account; it sees no billing.
    RUN = "run"


class Tokens:
    """Makes and recognises tokens.

    A Run's token is derived from its id, so that none is stored; it is good while the Run is live.
    """

    def __init__(self, account_token: str, secret: str) -> None:
        self._account_token, self._secret = account_token.encode(), secret.encode()

    def of_run(self, run_id: str) -> str:
        """Return the token that a Run's process is given."""
        return f"{_RUN_TOKEN_PREFIX}{run_id}_{self._sign(run_id)}"

    def recognise(self, token: str | None, is_live: Callable[[str], bool]) -> Caller:
        """Return whose token it is.

        Raises:
            Fault: 401 for a token that is nobody's.
        """
        if not token:
            return Caller.NOBODY
        if hmac.compare_digest(token.encode(errors="replace"), self._account_token):
            return Caller.ACCOUNT
        run_id, _, signature = token.removeprefix(_RUN_TOKEN_PREFIX).partition("_")
        is_signed = hmac.compare_digest(signature.encode(errors="replace"), self._sign(run_id).encode())
        if not (is_signed and is_live(run_id)):
            raise Fault(401, "user-or-token-not-found", "User was not found or authentication token is not valid")
        return Caller.RUN

    def _sign(self, run_id: str) -> str:
        return hmac.new(self._secret, run_id.encode(errors="replace"), hashlib.sha256).hexdigest()[:32]


def token_missing() -> Fault:
    """Return the fault for a request that needs a token and has none."""
    return Fault(401, "token-not-provided", "Authentication token was not provided")
