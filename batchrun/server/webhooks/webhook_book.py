"""The webhooks, and which of them an event of a Run or of a build triggers.

Webhooks of accounts are few and all in memory; those of a single Run are in memory while it is live.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from batchrun.model import JsonObject
from batchrun.server.accounts.accounts import ServerAccount
from batchrun.server.error_answers import ErrorAnswer, request_invalid, thing_missing, value_invalid
from batchrun.server.ids import iso, new_id, now_ms
from batchrun.server.store import webhook_table
from batchrun.server.store.database import Database
from batchrun.server.webhooks import webhook_templates

EVENT_TYPES = frozenset(
    {f"ACTOR.RUN.{event}" for event in ("CREATED", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", "RESURRECTED")}
    | {f"ACTOR.BUILD.{event}" for event in ("CREATED", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")}
    | {"TEST"}
)
#: Max webhooks of one account, without those of single Runs. Source: account limits.
_MAX_STORED = 100
#: Max bytes of an account's webhooks of single Runs, which are in memory while these are live; of one without texts.
_MAX_OF_RUNS_BYTES, _OWN_BYTES = 16 << 20, 2_000
#: Max characters of a URL, and of a description.
_MAX_URL, _MAX_DESCRIPTION = 8_000, 2_000
#: The Actor and Run id in a test dispatch.
_NO_ID = "0" * 17
_CONDITIONS = ("actorId", "actorTaskId", "actorRunId")
_FLAGS = ("ignoreSslErrors", "doNotRetry", "shouldInterpolateStrings", "isAdHoc")


class WebhookBook:
    """All webhooks that an event can still trigger."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stored: dict[str, JsonObject] = {}
        self._of_run: dict[str, list[JsonObject]] = defaultdict(list)
        #: Webhook id -> the Run of each of those.
        self._runs: dict[str, str] = {}
        #: Those that are being stored: they count already.
        self._coming: list[JsonObject] = []

    async def load(self) -> None:
        self._stored = {doc["id"]: doc for doc in await self._database.read(webhook_table.load_stored, _MAX_STORED)}

    async def load_run(self, run_id: str) -> None:
        for doc in await self._database.read(webhook_table.of_run, run_id):
            self._hold(doc)

    def forget_run(self, run_id: str) -> None:
        """Drop the webhooks of an ended Run from memory."""
        for doc in self._of_run.pop(run_id, ()):
            self._runs.pop(doc["id"], None)

    def of_account(self, account: ServerAccount) -> list[JsonObject]:
        """Return an account's webhooks, oldest first, without those of single Runs."""
        return [doc for doc in self._stored.values() if doc["userId"] == account.id]

    def dispatches_of(self, run: JsonObject, event: str) -> list[JsonObject]:
        """Return a new dispatch for each webhook that an event of a Run triggers."""
        if not self._stored and not self._of_run:
            return []
        candidates = [*self._stored.values(), *self._of_run.get(run["id"], ())]
        return [new_dispatch(doc, event, run) for doc in candidates if _is_set_off(doc, run, event)]

    def dispatches_of_build(self, build: JsonObject) -> list[JsonObject]:
        """Return new dispatches for each webhook that a new build triggers: it is created and has succeeded."""
        ids = {"actorId": build["actId"], "actorBuildId": build["id"]}
        return [
            _dispatch(doc, event, ids)
            for event in ("ACTOR.BUILD.CREATED", "ACTOR.BUILD.SUCCEEDED")
            for doc in self._stored.values()
            if event in doc["eventTypes"]
            and doc["userId"] == build["userId"]
            and doc["condition"] in ({}, {"actorId": build["actId"]})
        ]

    async def add_to_run(self, run: JsonObject, given: Sequence[JsonObject]) -> None:
        """Add the ad-hoc webhooks of a new Run, except those with a known idempotency key."""
        for one in given:
            condition = {"condition": {"actorRunId": run["id"]}, "isAdHoc": True}
            await self._add(new_webhook(run["userId"], {**one, **condition}), one.get("idempotencyKey"))

    async def create(self, account: ServerAccount, given: JsonObject) -> tuple[JsonObject, bool]:
        """Create a webhook; return it and whether it is new."""
        doc = new_webhook(account.id, given)
        self._check_room(doc)
        known = await self._add(doc, given.get("idempotencyKey"))
        return known or doc, known is None

    def _check_room(self, added: JsonObject) -> None:
        """Refuse a webhook if its account has too many of its kind, or those of single Runs take too much memory."""
        is_of_run = "actorRunId" in added["condition"]
        held = (doc for of_run in self._of_run.values() for doc in of_run) if is_of_run else self._stored.values()
        alike = [
            doc
            for doc in (*held, *self._coming)
            if doc["userId"] == added["userId"] and ("actorRunId" in doc["condition"]) is is_of_run
        ]
        if not is_of_run and len(alike) >= _MAX_STORED:
            raise ErrorAnswer(403, "too-many-webhooks", f"You have reached the limit of {_MAX_STORED} webhooks")
        size = sum(_OWN_BYTES + sum(len(text) for text in doc.values() if isinstance(text, str)) for doc in alike)
        if is_of_run and size > _MAX_OF_RUNS_BYTES:
            raise ErrorAnswer(403, "too-many-webhooks", "You have reached the limit of webhooks of live Runs")

    async def _add(self, doc: JsonObject, key: Any) -> JsonObject | None:
        key = key if isinstance(key, str) and key else None
        self._coming.append(doc)
        try:
            return await self._database.write(
                webhook_table.add, doc, key, then=lambda known: self._hold(doc) if known is None else None
            )
        finally:
            self._coming.remove(doc)

    def _hold(self, doc: JsonObject) -> None:
        """Have a webhook in memory as it is now, in the place of what it was."""
        self._drop(doc["id"])
        if (run_id := doc["condition"].get("actorRunId")) is not None:
            self._of_run[run_id].append(doc)
            self._runs[doc["id"]] = run_id
        else:
            self._stored[doc["id"]] = doc

    async def find(self, webhook_id: str, account: ServerAccount) -> JsonObject:
        doc = self._stored.get(webhook_id) or await self._database.read(webhook_table.read, webhook_id)
        if doc is None or doc["userId"] != account.id:
            raise thing_missing("Webhook")
        return doc

    async def update(self, doc: JsonObject, given: JsonObject) -> JsonObject:
        """Change the properties that are given. After an error nothing was changed."""
        changed = doc | _checked(doc | given) | {"modifiedAt": iso(now_ms())}
        if "actorRunId" in changed["condition"] or "actorRunId" in doc["condition"]:
            self._check_room(changed)
        self._coming.append(changed)
        try:
            await self._database.write(webhook_table.update, changed, then=lambda _: self._hold(changed))
        finally:
            self._coming.remove(changed)
        return changed

    async def delete(self, doc: JsonObject) -> None:
        await self._database.write(webhook_table.delete, doc["id"], then=lambda _: self._drop(doc["id"]))

    def _drop(self, webhook_id: str) -> None:
        self._stored.pop(webhook_id, None)
        run_id = self._runs.pop(webhook_id, None)
        if run_id in self._of_run:
            self._of_run[run_id] = [other for other in self._of_run[run_id] if other["id"] != webhook_id]


def new_webhook(user_id: str, given: JsonObject) -> JsonObject:
    at = iso(now_ms())
    return {"id": new_id(), "createdAt": at, "modifiedAt": at, "userId": user_id, **_checked(given)}


def _checked(given: JsonObject) -> JsonObject:
    check_target(given)
    condition = given.get("condition") or {}
    if not isinstance(condition, dict):
        raise request_invalid('Property "condition" must be an object')
    for name in ("payloadTemplate", "headersTemplate"):
        webhook_templates.check(name, given.get(name))
    description = given.get("description")
    if description is not None and not (isinstance(description, str) and len(description) <= _MAX_DESCRIPTION):
        raise request_invalid(f'Property "description" must be a string of up to {_MAX_DESCRIPTION:,} characters')
    kept = {name: condition[name] for name in _CONDITIONS if isinstance(condition.get(name), str)}
    return {
        "eventTypes": list(dict.fromkeys(given["eventTypes"])),
        "requestUrl": given["requestUrl"],
        "condition": kept,
        "payloadTemplate": given.get("payloadTemplate"),
        "headersTemplate": given.get("headersTemplate"),
        "description": description,
        **{name: bool(given.get(name)) for name in _FLAGS},
    }


def check_target(given: JsonObject) -> None:
    """Check that a webhook has known event types and an HTTP URL."""
    events, url = given.get("eventTypes"), given.get("requestUrl")
    if not isinstance(events, list) or not events or not all(isinstance(event, str) for event in events):
        raise value_invalid("A webhook needs eventTypes, an array of event types")
    if unknown := [event for event in events if event not in EVENT_TYPES]:
        raise value_invalid(f"Event type {unknown[0]} does not exist")
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
    except ValueError:
        parts = None
    if parts is None or len(parts.geturl()) > _MAX_URL or parts.scheme not in ("http", "https") or not parts.hostname:
        raise value_invalid(
            "A webhook needs a requestUrl that begins with http:// or https://, of up to 8,000 characters"
        )


def new_dispatch(webhook: JsonObject, event: str, run: JsonObject | None) -> JsonObject:
    ids = ("actorId", "actId"), ("actorTaskId", "actorTaskId"), ("actorRunId", "id")
    made_up = {"actorId": _NO_ID, "actorRunId": _NO_ID} | webhook["condition"]
    data = {name: run[key] for name, key in ids if run.get(key)} if run is not None else made_up
    return _dispatch(webhook, event, data)


def _dispatch(webhook: JsonObject, event: str, data: JsonObject) -> JsonObject:
    return {
        "id": new_id(),
        "userId": webhook["userId"],
        "webhookId": webhook["id"],
        "createdAt": iso(now_ms()),
        "status": "ACTIVE",
        "eventType": event,
        "eventData": data,
        "webhook": {name: webhook[name] for name in ("requestUrl", "condition", "isAdHoc")},
        "calls": [],
    }


def _is_set_off(webhook: JsonObject, run: JsonObject, event: str) -> bool:
    condition = webhook["condition"]
    meant = {"actorId": run["actId"], "actorTaskId": run.get("actorTaskId"), "actorRunId": run["id"]}
    return (
        event in webhook["eventTypes"]
        and webhook["userId"] == run["userId"]
        and all(meant[name] == value for name, value in condition.items())
    )
