"""Who is asking: an account by its token, a live Run by its own, or nobody."""

import hashlib
import hmac
from collections.abc import Callable
from enum import Enum

from batchrun.server.accounts.accounts import Account, Accounts
from batchrun.server.error_answers import Fault

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

    def __init__(self, accounts: Accounts, secret: str) -> None:
        self._accounts, self._secret = accounts, secret.encode()

    def of_run(self, run_id: str) -> str:
        """Return the token that a Run's process is given."""
        return f"{_RUN_TOKEN_PREFIX}{run_id}_{self._sign(run_id)}"

    def recognise(self, token: str | None, owner_of: Callable[[str], str | None]) -> tuple[Caller, Account | None]:
        """Return whose token it is, and on which account's behalf; `owner_of` tells the user id behind a live Run.

        Raises:
            Fault: 401 for a token that is nobody's.
        """
        if not token:
            return Caller.NOBODY, None
        if (account := self._accounts.of_token(token)) is not None:
            return Caller.ACCOUNT, account
        run_id, _, signature = token.removeprefix(_RUN_TOKEN_PREFIX).partition("_")
        is_signed = hmac.compare_digest(signature.encode(errors="replace"), self._sign(run_id).encode())
        account = self._accounts.get(owner_of(run_id) or "") if is_signed else None
        if account is None:
            raise Fault(401, "user-or-token-not-found", "User was not found or authentication token is not valid")
        return Caller.RUN, account

    def _sign(self, run_id: str) -> str:
        return hmac.new(self._secret, run_id.encode(errors="replace"), hashlib.sha256).hexdigest()[:32]


def token_missing() -> Fault:
    """Return the fault for a request that needs a token and has none."""
    return Fault(401, "token-not-provided", "Authentication token was not provided")


def not_permitted(what: str) -> Fault:
    """Return the fault for a thing that the caller can see and must not touch."""
    return Fault(403, "insufficient-permissions", f"Insufficient permissions for the {what}")
