"""The API's JSON, addresses and queries <-> values; no HTTP library, no waiting.

In this order: what all resources share, Runs, run options, Actors, prices, builds, the account.

Source of every name: the Apify API v2 reference (https://docs.apify.com/api/v2).
"""

import base64
import math
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from batchrun.apify.mended_json import parse_json
from batchrun.model import (
    CostSource,
    DatasetId,
    JsonObject,
    Run,
    RunId,
    RunOptions,
    RunStatus,
    StoreId,
)
from batchrun.policy.run_cost import Prices
from batchrun.runtime.fast_dataclasses import dataclass

#: The API's maximum of `waitForFinish`, in seconds.
MAX_WAIT_FOR_FINISH_S = 60
#: Most Runs in one page of a list.
MAX_LIST_LIMIT = 1000
#: Max bytes of an error of the API.
MAX_ERROR_BYTES = 1 << 20
#: Max characters of a name, and of a message, that the platform sends.
MAX_NAME_CHARS, MAX_MESSAGE_CHARS = 200, 2000
#: Larger counts are no counts: no ledger can note them.
_MAX_COUNT = 1 << 53
#: Dollars above which a cost or a price is none: it is unknown then, as a negative one is.
_MAX_USD = 1e9
#: Types of a number in JSON; a bool, which is an int, is none.
_NUMBERS = (int, float)
#: What ids are made of; they stand in addresses, ledgers, lists and messages.
_MAX_ID_CHARS = 200
_ID = re.compile(rf"[\w.~-]{{1,{_MAX_ID_CHARS}}}", re.ASCII)
#: Looked up by text: to call the class takes fifteen times as long.
_STATUSES = {str(status): status for status in RunStatus}
#: Years of times with which sums can be made.
_FIRST_YEAR, _LAST_YEAR = 1970, 9990


def segment(id_or_name: str) -> str:
    """Encode an id or a `user/name` address as one path segment."""
    if id_or_name.isascii() and id_or_name.encode().isalnum():
        return id_or_name
    return quote(id_or_name.replace("/", "~", 1), safe="~-._")


def query_text(query: Mapping[str, str]) -> str:
    """Encode the query of an address; only the values need it, since the names are the API's own."""
    return "&".join([f"{name}={_encoded(value)}" for name, value in query.items()])


@lru_cache  # most values are those of the request before
def _encoded(value: str) -> str:
    return quote(value, safe="")


def line_of(text: str, max_chars: int) -> str:
    """Return a text of the platform as one line: wherever it is printed, it cannot look like a line of ours."""
    line = " ".join(text[: 2 * max_chars].split())
    return line if len(line) <= max_chars else f"{line[:max_chars]}…"


def parse_data(body: bytes) -> Any:
    """Return the `data` of an answer.

    Raises:
        ValueError: the body is not the envelope the API documents.
    """
    return data_in(parse_json(body))


def data_in(envelope: Any) -> Any:
    """Return the `data` in a parsed answer; ValueError as for `parse_data`."""
    if not isinstance(envelope, dict) or "data" not in envelope:
        raise ValueError("it has no `data`")
    return envelope["data"]


def parse_time(text: str) -> datetime:
    """Read an ISO time of the API; one without an offset is UTC."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def format_time(at: datetime) -> str:
    """Write a time as the API does: ISO, in UTC with a Z, cut to milliseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def parse_run(data: Any) -> Run:
    """Read a Run object, or an item of a list of Runs. Only its id must be there.

    Raises:
        ValueError: it has no id, or what is none.
    """
    if not isinstance(data, dict):
        raise ValueError("a Run of it is no object")
    options = _part(data, "options")
    cost_usd, cost_source = _run_cost(data)
    finished_at = _time(data.get("finishedAt"))
    return Run(
        id=RunId(id_in(data)),
        status=_status(data.get("status"), has_ended=finished_at is not None),
        dataset_id=DatasetId(dataset_id) if (dataset_id := id_or_none(data.get("defaultDatasetId"))) else None,
        store_id=StoreId(store_id) if (store_id := id_or_none(data.get("defaultKeyValueStoreId"))) else None,
        started_at=_time(data.get("startedAt")),
        finished_at=finished_at,
        cost_usd=cost_usd,
        cost_source=cost_source,
        memory_mb=_count(options.get("memoryMbytes")),
        timeout_s=_count(options.get("timeoutSecs")),
        user_agent=_text_or_none(_part(data, "meta").get("userAgent")),
        fields=data,
    )


def _status(text: Any, *, has_ended: bool) -> RunStatus:
    """Read a status. One that this version does not know is live or, for a Run that has ended, no success."""
    unknown = RunStatus.FAILED if has_ended else RunStatus.RUNNING
    return _STATUSES.get(text, unknown) if isinstance(text, str) else unknown


def _run_cost(data: JsonObject) -> tuple[float | None, CostSource]:
    """Return a Run's cost and its source; of some Actors the platform reports the cost to the Actor's owner only."""
    if (reported := reported_cost(data)) is not None:
        return reported, CostSource.PLATFORM
    if (derived := _charged_usd(_part(data, "pricingInfo"), _part(data, "chargedEventCounts"))) is not None:
        return derived, CostSource.DERIVED
    return None, CostSource.UNKNOWN


def reported_cost(run: JsonObject) -> float | None:
    """Return a Run's cost, that of a live one so far; None if the platform does not report it."""
    return _cost(run.get("usageTotalUsd"))


def _charged_usd(pricing: JsonObject, counts: JsonObject) -> float | None:
    """Add up the charged events of a pay-per-event Run; None for other Actors or if a price is unknown."""
    if pricing.get("pricingModel") != "PAY_PER_EVENT":
        return None
    events = _part(_part(pricing, "pricingPerEvent"), "actorChargeEvents")
    charges = list[float]()
    for name, count in counts.items():
        if not count:
            continue
        price, times = _cost(_part(events, name).get("eventPriceUsd")), _count(count)
        if price is None or times is None:
            return None
        charges.append(times * price)
    return _cost(math.fsum(charges))


def options_query(options: RunOptions) -> dict[str, str]:
    """Return the query parameters of "Run task" for these options."""
    values = {
        "build": options.build,
        "timeout": options.timeout_s,
        "memory": options.memory_mb,
        "maxItems": options.max_items,
        "maxTotalChargeUsd": options.max_total_charge_usd,
    }
    query = {name: str(value) for name, value in values.items() if value is not None}
    if options.restart_on_error is not None:
        query["restartOnError"] = "true" if options.restart_on_error else "false"
    if options.webhooks is not None:
        query["webhooks"] = base64.b64encode(orjson.dumps(list(options.webhooks))).decode()
    return query


def task_options(options: RunOptions) -> JsonObject:
    """Return the `options` object of a task; its names differ from those of "Run task"."""
    values = {
        "build": options.build,
        "timeoutSecs": options.timeout_s,
        "memoryMbytes": options.memory_mb,
        "maxItems": options.max_items,
        "maxTotalChargeUsd": options.max_total_charge_usd,
        "restartOnError": options.restart_on_error,
    }
    return {name: value for name, value in values.items() if value is not None}


def parse_options(given: Any) -> RunOptions:
    """Read the `options` of a task, or the default run options of an Actor; what is no object has none."""
    options = given if isinstance(given, dict) else {}
    return RunOptions(
        build=_text_or_none(options.get("build")),
        timeout_s=_count(options.get("timeoutSecs")),
        memory_mb=_count(options.get("memoryMbytes")),
        max_items=_count(options.get("maxItems")),
        max_total_charge_usd=_cost(options.get("maxTotalChargeUsd")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorInfo:
    """What an Actor sets for its Runs."""

    id: str
    #: Tag or number of the build for a start that names none.
    default_build: str
    default_memory_mb: int | None
    #: Build id and number (None if unknown) by tag; None if the Actor does not show its tags.
    tagged: Mapping[str, tuple[str, str | None]] | None


def parse_actor(fields: JsonObject) -> ActorInfo:
    """Read an Actor.

    Raises:
        ValueError: it has no id.
    """
    options, tagged = fields.get("defaultRunOptions"), fields.get("taggedBuilds")
    options = options if isinstance(options, dict) else {}
    return ActorInfo(
        id=id_in(fields),
        default_build=str(options.get("build") or "latest"),
        default_memory_mb=_count(options.get("memoryMbytes")),
        tagged=_tagged(tagged) if isinstance(tagged, dict) and tagged else None,
    )


def _tagged(builds: JsonObject) -> dict[str, tuple[str, str | None]]:
    return {  # a tag without a build is null
        tag: (build_id, _text_or_none(build.get("buildNumber")))
        for tag, build in builds.items()
        if isinstance(build, dict) and (build_id := id_or_none(build.get("buildId"))) is not None
    }


def parse_prices(actor: JsonObject, usage: JsonObject, now: datetime, *, is_own: bool) -> Prices:
    """Read the prices of an Actor's Runs; Actor or monthly usage is {} if the token may not read it.

    `now` selects the prices in force. The owner of an Actor pays for the platform usage of its Runs.
    """
    soon = now + timedelta(seconds=1)  # the platform shows its clock in whole seconds
    infos = actor.get("pricingInfos")
    begun = [
        (at, place, info)
        for place, info in enumerate(infos if isinstance(infos, list) else [])
        if isinstance(info, dict) and (at := _time(info.get("startedAt"))) is not None and at <= soon
    ]
    info: JsonObject = max(begun)[2] if begun else {}
    units = _part(_part(usage, "monthlyServiceUsage"), "ACTOR_COMPUTE_UNITS")
    return Prices(
        model=_text_or_none(info.get("pricingModel")),
        per_item_usd=_price_per_item(info),
        least_cap_usd=_cost(info.get("minimalMaxTotalChargeUsd")),
        pays_usage=is_own or info.get("isPPEPlatformUsagePaidByUser") is True,
        compute_unit_usd=_cost(units.get("baseUnitPriceUsd")),
    )


def _price_per_item(info: JsonObject) -> float | None:
    """Return a pay-per-result price. If it depends on the user's tier, which is unknown, return the highest."""
    if info.get("pricingModel") != "PRICE_PER_DATASET_ITEM":
        return None
    if (price := _cost(info.get("pricePerUnitUsd"))) is not None:
        return price
    tiered = _part(info, "tieredPricing")
    tiers = [_cost(_part(tiered, name).get("tieredPricePerUnitUsd")) for name in tiered]
    return max((price for price in tiers if price is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """What a build sets for its Runs."""

    id: str
    number: str | None
    #: None if there is none, or if it cannot be read.
    input_schema: JsonObject | None
    min_memory_mb: int | None
    max_memory_mb: int | None


def parse_build(fields: JsonObject) -> BuildInfo:
    """Read a build.

    Raises:
        ValueError: it has no id.
    """
    definition = fields.get("actorDefinition")
    definition = definition if isinstance(definition, dict) else {}
    return BuildInfo(
        id=id_in(fields),
        number=number if isinstance(number := fields.get("buildNumber"), str) else None,
        input_schema=_input_schema(definition.get("input"), fields.get("inputSchema")),
        min_memory_mb=_count(definition.get("minMemoryMbytes")),
        max_memory_mb=_count(definition.get("maxMemoryMbytes")),
    )


def _input_schema(definition: Any, text: Any) -> JsonObject | None:
    """Return a build's input schema: part of its definition, or JSON text in builds of older Actors."""
    if isinstance(definition, dict):
        return definition
    try:
        schema = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError:
        return None
    return schema if isinstance(schema, dict) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountLimits:
    """What may be live in an account at once, and what is; None if the platform does not report it."""

    max_concurrent_runs: int | None = None
    #: Live Runs and builds of the account, also those that other programs started.
    live_runs: int | None = None
    #: For all live Runs and builds together.
    max_total_memory_mb: int | None = None
    used_memory_mb: int | None = None


class Denied(StrEnum):
    """What a token that may run a task may not be allowed to read. The values are the API's paths."""

    ACCOUNT = "users/me"
    LIMITS = "users/me/limits"
    TASK = "actor-tasks"
    ACTOR = "actors"
    BUILDS = "actor-builds"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountInfo:
    """The account that a token belongs to, and its limits; None if the platform does not report it."""

    username: str
    plan: str | None
    limits: AccountLimits
    max_monthly_usage_usd: float | None
    monthly_usage_usd: float | None
    #: Its id, else its name; empty if the token may not read them.
    id: str = ""
    #: What the token may not read of it.
    denied: tuple[Denied, ...] = ()


def parse_account(user: JsonObject, limits: JsonObject, denied: tuple[Denied, ...] = ()) -> AccountInfo:
    """Read `users/me` and `users/me/limits`; {} for what the token may not read."""
    allowed, used = _part(limits, "limits"), _part(limits, "current")
    return AccountInfo(
        username=name_in(user, "username") or "?",
        plan=name_in(_part(user, "plan"), "id"),
        limits=parse_limits(limits),
        max_monthly_usage_usd=_cost(allowed.get("maxMonthlyUsageUsd")),
        monthly_usage_usd=_cost(used.get("monthlyUsageUsd")),
        id=id_or_none(user.get("id")) or name_in(user, "username") or "",
        denied=denied,
    )


def parse_limits(limits: JsonObject) -> AccountLimits:
    """Read live Runs and their memory, in gigabytes there, from `users/me/limits`."""
    allowed, used = _part(limits, "limits"), _part(limits, "current")
    return AccountLimits(
        max_concurrent_runs=_count(allowed.get("maxConcurrentActorJobs")),
        live_runs=_count(used.get("activeActorJobCount")),
        max_total_memory_mb=_megabytes(allowed.get("maxActorMemoryGbytes")),
        used_memory_mb=_megabytes(used.get("actorMemoryGbytes")),
    )


def _megabytes(gigabytes: Any) -> int | None:
    # Cut to a petabyte: a larger number stands for "no limit".
    return None if (number := _number(gigabytes, sys.float_info.max)) is None else round(min(number, 1e6) * 1024)


def _part(whole: JsonObject, name: str) -> JsonObject:
    part = whole.get(name)
    return part if isinstance(part, dict) else {}


def id_in(fields: JsonObject) -> str:
    """Return the `id`, which must be there.

    Raises:
        ValueError: it is missing, or none.
    """
    if (found := id_or_none(fields.get("id"))) is None:
        raise ValueError("its `id` is no text of letters and digits")
    return found


def id_or_none(value: Any) -> str | None:
    """Return an id as it is; None for what is none."""
    if not isinstance(value, str):
        return None
    if value.isascii() and value.encode().isalnum() and len(value) <= _MAX_ID_CHARS:
        return value  # as almost all ids, without the pattern: it takes three times as long
    return value if _ID.fullmatch(value) else None


def name_in(fields: JsonObject, name: str) -> str | None:
    """Return a field with a name for people, as one line; None if it is missing or no text."""
    value = fields.get(name)
    return line_of(value, MAX_NAME_CHARS) or None if isinstance(value, str) else None


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(value: Any) -> datetime | None:
    """Read a time that may be missing, null or unreadable."""
    if not isinstance(value, str):
        return None
    try:
        at = parse_time(value).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if _FIRST_YEAR <= at.year <= _LAST_YEAR else None


def _count(value: Any) -> int | None:
    return None if (number := _number(value, _MAX_COUNT)) is None else int(number)


def _cost(value: Any) -> float | None:
    return None if (number := _number(value, _MAX_USD)) is None else float(number)


def _number(value: Any, most: float) -> float | None:
    """Read a number from 0 to `most`; anything else is unknown."""
    return value if type(value) in _NUMBERS and 0 <= value <= most else None
