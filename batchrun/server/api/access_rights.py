"""Whether a caller may read what a path means: its owner, general access, and signatures in URLs."""

from batchrun.model import JsonObject
from batchrun.server.content.url_signatures import is_signature_of
from batchrun.server.error_answers import not_permitted, request_invalid
from batchrun.server.ids import now_ms
from batchrun.server.routing.call import Call
from batchrun.server.runs.hosted_run import HostedRun

#: General access in the API's words: only the owner may read; anyone who knows the name may read.
_RESTRICTED, BY_NAME = "RESTRICTED", "ANYONE_WITH_NAME_CAN_READ"
DEFAULT_ACCESS = "FOLLOW_USER_SETTING"
_ACCESS = (DEFAULT_ACCESS, "ANYONE_WITH_ID_CAN_READ", BY_NAME, _RESTRICTED)


def access_of(given: JsonObject) -> str | None:
    """Return the general access that a body sets; None if it sets none."""
    access = given.get("generalAccess")
    if access is not None and access not in _ACCESS:
        raise request_invalid(f'Property "generalAccess" must be one of {", ".join(_ACCESS)}')
    return access


def may_read(call: Call, access: str | None, owner_id: str) -> bool:
    """True if the caller may read a thing: its owner always, others unless its access or its owner's is restricted."""
    if call.is_by(owner_id):
        return True
    if access in (None, DEFAULT_ACCESS):
        # The owner may be no account any more. The server's own setting decides then.
        owner = call.backend.accounts.get(owner_id) or call.backend.settings
        return not owner.is_restricted
    return access != _RESTRICTED


def may_follow(call: Call, live: HostedRun) -> bool:
    """True if the caller may read on in a live Run: the Run that calls may have ended, or access been restricted."""
    has_ended = call.live is not None and call.live.is_ended
    return not has_ended and may_read(call, live.doc["generalAccess"], live.doc["userId"])


def refuse_anothers_run(call: Call, doc: JsonObject) -> None:
    if not may_read(call, doc["generalAccess"], doc["userId"]):
        raise not_permitted("Actor run")


def has_signature(call: Call, storage_id: str, key: str | None = None) -> bool:
    """True if the URL carries a valid signature of a storage, or of its record `key`."""
    if (signature := call.query.text("signature")) is None:
        return False
    return is_signature_of(signature, call.backend.tokens.signing_key_of(storage_id), storage_id, key, now_ms())
