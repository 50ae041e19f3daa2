"""Who calls: an account or a live Run, recognised by its token, or an anonymous caller."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from enum import Enum

from batchrun.runtime.loopback import new_page_host
from batchrun.server.accounts.accounts import Accounts, ServerAccount
from batchrun.server.error_answers import ErrorAnswer

_RUN_TOKEN_PREFIX = "batchrun_run_"  # noqa: S105 - not a secret
#: The server's page keeps a token with this prefix while the server does not answer.
_PAGE_TOKEN_PREFIX = "batchrun_page_"  # noqa: S105 - not a secret


class Caller(Enum):
    ANONYMOUS = "anonymous"
    ACCOUNT = "account"
    #: A live Run of the account. It does not see billing.
    RUN = "run"


class CallerTokens:
    """Makes and recognises tokens.

    A Run's token is derived from its id and is not stored. It is valid while the Run is live.
    """

    def __init__(self, accounts: Accounts, secret: str) -> None:
        self._accounts, self._secret = accounts, secret.encode()
        #: Acts for the first account, from the server's page. It ends with this process: a page that is still open
        #: sends it to whatever program takes the port over.
        self.of_page = _PAGE_TOKEN_PREFIX + secrets.token_urlsafe(24)
        #: The page's name on this machine.
        self.page_host = new_page_host()

    def of_run(self, run_id: str) -> str:
        return f"{_RUN_TOKEN_PREFIX}{run_id}_{self._sign(run_id)}"

    def events_key_of(self, run_id: str) -> str:
        """Return what opens the events of a Run beside its account's tokens; the address for its Actor has it."""
        return self._sign(f"events {run_id}")

    def signing_key_of(self, storage_id: str) -> str:
        """Return the secret that signs the URLs of a storage's contents."""
        return self._sign(f"storage {storage_id}")

    def recognise(
        self, token: str | None, owner_of: Callable[[str], str | None]
    ) -> tuple[Caller, ServerAccount | None, str]:
        """Return the kind of caller, its account, and the id of the Run that calls, else an empty one.

        `owner_of` returns the user id of a live Run.
        """
        if not token:
            return Caller.ANONYMOUS, None, ""
        if (account := self._accounts.of_token(token)) is not None:
            return Caller.ACCOUNT, account, ""
        if hmac.compare_digest(token.encode(errors="replace"), self.of_page.encode()):
            return Caller.ACCOUNT, self._accounts.first, ""
        run_id, _, signature = token.removeprefix(_RUN_TOKEN_PREFIX).partition("_")
        is_signed = hmac.compare_digest(signature.encode(errors="replace"), self._sign(run_id).encode())
        account = self._accounts.get(owner_of(run_id) or "") if is_signed else None
        if account is None:
            raise ErrorAnswer(401, "user-or-token-not-found", "User was not found or authentication token is not valid")
        return Caller.RUN, account, run_id

    def _sign(self, run_id: str) -> str:
        return hmac.new(self._secret, run_id.encode(errors="replace"), hashlib.sha256).hexdigest()[:32]
