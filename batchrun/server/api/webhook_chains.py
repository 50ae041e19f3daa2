"""Ends chains: a webhook starts a Run, whose webhooks start Runs, and so on, without anybody who asks for it.

A Run that a webhook has started, and one that such a Run starts, belong to a chain. Chains outlive the server that they
began in, so their Runs are counted in the database.
"""

from batchrun.model import JsonObject
from batchrun.server.accounts.callers import Caller
from batchrun.server.error_answers import ErrorAnswer, not_permitted
from batchrun.server.routing.call import Call
from batchrun.server.store import webhook_table

#: Runs of a chain at which webhooks start no more of it; resurrections of a Run at which webhooks resurrect it no more.
_MAX_RUNS, _MAX_RESURRECTIONS = 1000, 10
#: A webhook's call has it whatever it is to: this server's address may have several spellings.
_DISPATCH = "X-Apify-Webhook-Dispatch-Id"


def refuse_webhook(call: Call, what: str) -> None:
    if call.caller is Caller.WEBHOOK or _DISPATCH in call.request.headers:
        raise not_permitted(what)


def check_resurrection(call: Call, run: JsonObject) -> None:
    """Refuse a webhook that would resurrect a Run again and again."""
    if run["stats"]["resurrectCount"] >= _MAX_RESURRECTIONS:
        refuse_webhook(call, f"resurrection: webhooks resurrect a run up to {_MAX_RESURRECTIONS} times")


async def chain_of(call: Call) -> str | None:
    """Return the chain of the Run that a call starts; None: no webhook has led to it."""
    found = None
    if (dispatch_id := call.request.headers.get(_DISPATCH)) is not None:
        found = await call.backend.database.read(webhook_table.chain_of, dispatch_id, call.user.id, _MAX_RUNS)
    if found is None:  # no dispatch of this server
        return call.live.extras.get("chain") if call.live is not None else None
    begun_by, is_own, runs = found
    if runs >= _MAX_RUNS:
        beginning = f", from {begun_by} on" if is_own else ""
        message = f"Webhooks have started {runs:,} runs one after another{beginning}: this webhook starts no more"
        raise ErrorAnswer(403, "webhook-chain-too-long", message)
    return begun_by
