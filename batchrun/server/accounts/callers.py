"""Who calls: an account or a live Run, recognised by its token, or an anonymous caller."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from enum import Enum

from batchrun.runtime.loopback import new_page_host
from batchrun.server.accounts.accounts import Accounts, ServerAccount
from batchrun.server.error_answers import token_invalid

_RUN_TOKEN_PREFIX = "batchrun_run_"  # noqa: S105 - not a secret
#: The server's page keeps a token with this prefix while the server does not answer.
_PAGE_TOKEN_PREFIX = "batchrun_page_"  # noqa: S105 - not a secret
_WEBHOOK_TOKEN_PREFIX = "batchrun_webhook_"  # noqa: S105 - not a secret


class Caller(Enum):
    ANONYMOUS = "anonymous"
    ACCOUNT = "account"
    #: A live Run of the account. It does not see billing.
    RUN = "run"
    #: A webhook of the account, which one of its Runs may have made: it sees no more.
    WEBHOOK = "webhook"


class CallerTokens:
    """Makes and recognises tokens.

    A Run's token is derived from its id and is not stored. It is valid while the Run is live, and not again once it is
    resurrected. It ends with this process, as a page's does: what outlives a killed server, a page or an Actor, sends
    it to whatever program takes the port over. A copy of the state makes none of them.

    Args:
        accounts: of the server.
        secret: of the server's state.
        process_before: the `process` of the server that had this state before; empty: there was none that had one.
    """

    def __init__(self, accounts: Accounts, secret: str, process_before: str = "") -> None:
        self._accounts, self._secret, self._process_before = accounts, secret.encode(), process_before
        #: Of this process only: stored, so that the next one knows its Runs' processes; and in no file.
        self.process, self._unstored = secrets.token_hex(16), secrets.token_hex(16)
        #: The page's name on this machine.
        self.page_host = new_page_host()

    def of_run(self, run_id: str, resurrections: int) -> str:
        own = self._sign(f"{run_id} {resurrections} {self._unstored}")
        return f"{self._token(_RUN_TOKEN_PREFIX, run_id, self.process)}.{own}"

    def of_orphan(self, run_id: str) -> str:
        """Return what the token that a Run had from the server before begins with, up to the dot; all of an old one."""
        if not self._process_before:  # of an earlier version
            return f"{_RUN_TOKEN_PREFIX}{run_id}_{self._sign(run_id)}"
        return self._token(_RUN_TOKEN_PREFIX, run_id, self._process_before)

    def of_page(self, user_id: str) -> str:
        """Return the token with which the server's page acts for an account."""
        return self._token(_PAGE_TOKEN_PREFIX, user_id, self._unstored)

    def of_webhook(self, user_id: str) -> str:
        """Return the token with which an account's webhooks call this server."""
        return self._token(_WEBHOOK_TOKEN_PREFIX, user_id, self._unstored)

    def _token(self, prefix: str, id_: str, process: str) -> str:
        return f"{prefix}{id_}_{self._sign(f'{prefix}{id_} {process}')}"

    def events_key_of(self, run_id: str, resurrections: int) -> str:
        """Return what opens the events of a Run beside its account's tokens; the address for its Actor has it."""
        return self._sign(f"events {run_id} {resurrections} {self._unstored}")

    def signing_key_of(self, storage_id: str) -> str:
        """Return the secret that signs the URLs of a storage's contents."""
        return self._sign(f"storage {storage_id}")

    def recognise(
        self, token: str | None, owner_of: Callable[[str], tuple[str, int] | None]
    ) -> tuple[Caller, ServerAccount | None, str]:
        """Return the kind of caller, its account, and the id of the Run that calls, else an empty one.

        `owner_of` returns the user id of a live Run, and how often it was resurrected.
        """
        if not token:
            return Caller.ANONYMOUS, None, ""
        if (account := self._accounts.of_token(token)) is not None:
            return Caller.ACCOUNT, account, ""
        for caller, prefix, of in (
            (Caller.ACCOUNT, _PAGE_TOKEN_PREFIX, self.of_page),
            (Caller.WEBHOOK, _WEBHOOK_TOKEN_PREFIX, self.of_webhook),
        ):
            user_id = token.removeprefix(prefix).rpartition("_")[0]
            if _is_same(token, of(user_id)) and (account := self._accounts.get(user_id)) is not None:
                return caller, account, ""
        run_id = token.removeprefix(_RUN_TOKEN_PREFIX).partition("_")[0]
        owner, resurrections = owner_of(run_id) or ("", 0)
        account = self._accounts.get(owner) if _is_same(token, self.of_run(run_id, resurrections)) else None
        if account is None:
            raise token_invalid()
        return Caller.RUN, account, run_id

    def _sign(self, run_id: str) -> str:
        return hmac.new(self._secret, run_id.encode(errors="replace"), hashlib.sha256).hexdigest()[:32]


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), token.encode(errors="replace"))
