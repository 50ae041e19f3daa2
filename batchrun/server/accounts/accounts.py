"""The accounts of this server: who they are and what each may do."""

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import field

from batchrun.model import JsonObject
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.accounts.run_quota import RunQuota
from batchrun.server.ids import derived_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAccount:
    id: str
    username: str
    token: str = field(repr=False)
    #: Wall milliseconds.
    created_ms: int
    max_tasks: int
    quota: RunQuota
    #: True: others read its Runs and storages only if these say so themselves.
    is_restricted: bool = False
    #: Limits that the user has set, by their names in the API. Changed in place.
    limits: JsonObject = field(default_factory=dict)


class Accounts:
    """All accounts. The first one owns the Actors from directories."""

    def __init__(self, accounts: Iterable[ServerAccount]) -> None:
        self._by_id = {account.id: account for account in accounts}
        self._by_name = {account.username.lower(): account for account in self._by_id.values()}
        self.first = next(iter(self._by_id.values()))

    def __iter__(self) -> Iterator[ServerAccount]:
        return iter(self._by_id.values())

    def of_token(self, token: str) -> ServerAccount | None:
        """Return the account with this API token. Every wrong token takes the same time."""
        given, found = token.encode(errors="replace"), None
        for account in self:
            if hmac.compare_digest(given, account.token.encode()):
                found = account
        return found

    def get(self, user_id: str) -> ServerAccount | None:
        return self._by_id.get(user_id)

    def named(self, address: str) -> ServerAccount | None:
        """Return the account with this username (in any case) or id."""
        return self._by_name.get(address.lower()) or self._by_id.get(address)

    def username_of(self, user_id: str) -> str:
        """Return the username of an account; empty for a removed account."""
        account = self._by_id.get(user_id)
        return account.username if account is not None else ""

    def owner_id_of(self, username: str) -> str:
        """Return the user id of a username; publishers of public Actors have one too."""
        account = self.named(username)
        return account.id if account is not None else derived_id(f"user {username}")

    def may_use(self, username: str, caller: ServerAccount | None) -> bool:
        """True if a caller may use an Actor of this user: his own Actor, or that of a publisher without an account."""
        owner = self.named(username)
        return owner is None or owner is caller
