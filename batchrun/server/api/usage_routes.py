"""Endpoints of the account's limits and usage."""

import math
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.accounts.account_book import change_limits
from batchrun.server.error_answers import ErrorAnswer, request_invalid, value_invalid
from batchrun.server.ids import iso
from batchrun.server.prices import usd_per_unit
from batchrun.server.routing.call import Call, data_answer, raw_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.runs.final_usage import month_of
from batchrun.server.store import usage_table

#: The value of limits that this server does not enforce; no batch reaches it.
_PLENTY = 1_000_000
#: Days of data retention, about 100 years: the server deletes nothing by itself.
_RETENTION_DAYS = 36500
#: Years that `datetime` can represent with the end of each month.
_YEARS = range(1970, 9999)


def add_routes(table: RouteTable) -> None:
    table.add("GET", "/v2/users/me/limits", get_limits)
    table.add("PUT", "/v2/users/me/limits", update_limits)
    table.add("GET", "/v2/users/me/usage/monthly", get_monthly_usage)


async def get_limits(call: Call) -> web.Response:
    user, quota = call.user, call.user.quota
    limits = {
        "maxMonthlyUsageUsd": user.limits.get("maxMonthlyUsageUsd", _PLENTY),
        "maxMonthlyActorComputeUnits": _PLENTY,
        "maxMonthlyExternalDataTransferGbytes": _PLENTY,
        "maxMonthlyProxySerps": 0,
        "maxMonthlyResidentialProxyGbytes": 0,
        "maxActorMemoryGbytes": quota.max_total_memory_mb / 1024,
        "maxActorCount": _PLENTY,
        "maxActorTaskCount": user.max_tasks,
        "maxConcurrentActorJobs": quota.max_concurrent_runs,
        "maxTeamAccountSeatCount": 1,
        "dataRetentionDays": user.limits.get("dataRetentionDays", _RETENTION_DAYS),
        "maxScheduleCount": 0,
    }
    used = {name: quantity for name, (quantity, _) in _sums(await _rows(call, datetime.now(UTC))).items()}
    current = {
        "monthlyUsageUsd": call.backend.final_usage.spent_usd(user.id),
        "monthlyActorComputeUnits": used.get("ACTOR_COMPUTE_UNITS", 0),
        "monthlyExternalDataTransferGbytes": 0,
        "monthlyProxySerps": 0,
        "monthlyResidentialProxyGbytes": 0,
        "actorMemoryGbytes": quota.memory_mb / 1024,
        "actorCount": sum(1 for actor in call.backend.catalog if actor.username == user.username),
        "actorTaskCount": len(call.backend.tasks.of_account(user)),
        "activeActorJobCount": quota.runs,
        "teamAccountSeatCount": 1,
        "scheduleCount": 0,
    }
    return data_answer({"monthlyUsageCycle": _cycle(datetime.now(UTC)), "limits": limits, "current": current})


async def update_limits(call: Call) -> web.Response:
    given = await call.json_object()
    changes: JsonObject = {}
    if given.get("maxMonthlyUsageUsd") is not None:
        changes["maxMonthlyUsageUsd"] = _checked("maxMonthlyUsageUsd", given["maxMonthlyUsageUsd"], int, float)
        if changes["maxMonthlyUsageUsd"] < call.backend.final_usage.spent_usd(call.user.id):
            message = "The monthly usage limit cannot be lower than what has been used this month"
            raise ErrorAnswer(400, "monthly-usage-limit-too-low", message)
    if given.get("dataRetentionDays") is not None:
        changes["dataRetentionDays"] = _checked("dataRetentionDays", given["dataRetentionDays"], int)
    await change_limits(call.backend.database, call.user, changes)
    return raw_answer(b"{}", 201)


def _checked(name: str, value: Any, *kinds: type) -> Any:
    if type(value) not in kinds or not 0 <= value < math.inf:
        raise request_invalid(f'Property "{name}" must be a number that is not negative')
    return value


async def get_monthly_usage(call: Call) -> web.Response:
    """Show the account's usage of the current month, or of the month of `date`."""
    day = _day(call.query.text("date"))
    rows = await _rows(call, day)
    daily = [_day_doc(date, [row for row in rows if row[0] == date]) for date in dict.fromkeys(row[0] for row in rows)]
    services = _services(rows)
    if month_of(day) == month_of(datetime.now(UTC)):
        # Also before the first usage: whoever has a budget needs the price.
        services = _services([("", "ACTOR_COMPUTE_UNITS", 0.0, 0.0)]) | services
    total = math.fsum(usd for *_, usd in rows)
    return data_answer(
        {
            "usageCycle": _cycle(day),
            "monthlyServiceUsage": services,
            "dailyServiceUsages": daily,
            "totalUsageCreditsUsdBeforeVolumeDiscount": total,
            "totalUsageCreditsUsdAfterVolumeDiscount": total,
        }
    )


_Row = tuple[str, str, float, float]


async def _rows(call: Call, day: datetime) -> list[_Row]:
    first, _ = month_of(day)
    # All days of a month sort before "-99".
    return await call.backend.database.read(usage_table.read, call.user.id, first, f"{first[:8]}99")


def _sums(rows: list[_Row]) -> dict[str, tuple[float, float]]:
    sums: dict[str, tuple[float, float]] = {}
    for _, name, quantity, usd in rows:
        known = sums.get(name, (0.0, 0.0))
        sums[name] = (known[0] + quantity, known[1] + usd)
    return sums


def _services(rows: list[_Row]) -> JsonObject:
    return {
        name: {
            "quantity": quantity,
            "baseAmountUsd": usd,
            "baseUnitPriceUsd": usd_per_unit(name),
            "amountAfterVolumeDiscountUsd": usd,
            "priceTiers": [],
        }
        for name, (quantity, usd) in _sums(rows).items()
    }


def _day_doc(date: str, rows: list[_Row]) -> JsonObject:
    total = math.fsum(usd for *_, usd in rows)
    return {"date": f"{date}T00:00:00.000Z", "serviceUsage": _services(rows), "totalUsageCreditsUsd": total}


def _day(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise value_invalid("Parameter date must have the form YYYY-MM-DD") from None
    if day.year not in _YEARS:
        raise value_invalid("Parameter date lies too far away")
    return day


def _cycle(day: datetime) -> JsonObject:
    first, following = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in month_of(day))
    return {"startAt": iso(_ms(first)), "endAt": iso(_ms(following) - 1)}


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
