"""What Runs cost: first as an estimate, then for good; what accounts have used and may use; charged events."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from batchrun.server import InlineContext
from batchrun.server.store.database import open_database
from tests.support.server_api import ACTORS, Api, open_api

_PRICES = {"DATASET_WRITES": 0.000005, "KEY_VALUE_STORE_WRITES": 0.00005}
SERVER = {"actors": (ACTORS,), "usage_settle_s": 0, "abort_grace_s": 0.1}


async def _echo(api: Api, given: Any = None, **query: Any) -> Any:
    started = await api.send("POST", "/v2/actors/test~echo/runs", given or {}, waitForFinish=60, **query)
    assert started.status == 201, started.body
    return started.data


async def _settled(api: Api, run_id: str) -> Any:
    run = (await api.get(f"/v2/actor-runs/{run_id}")).data
    with anyio.fail_after(60):
        while "DATASET_WRITES" not in run["usage"]:
            await anyio.sleep(0.02)
            run = (await api.get(f"/v2/actor-runs/{run_id}")).data
    return run


async def _runs(api: Api, run_id: str) -> None:
    status = ""
    while status != "RUNNING":
        await anyio.sleep(0.02)
        status = (await api.get(f"/v2/actor-runs/{run_id}")).data["status"]


async def test_the_first_figures_are_preliminary(tmp_path: Path) -> None:
    """The first terminal answer counts time only; a while later the storages' use is in it, for good."""
    async with open_api(tmp_path / "server", usage_settle_s=0.3) as api:
        first = await _echo(api)
        assert set(first["usage"]) == {"ACTOR_COMPUTE_UNITS"}
        final = await _settled(api, first["id"])
        assert final["usage"]["DATASET_WRITES"] == final["usage"]["KEY_VALUE_STORE_WRITES"] == 1
        expected = first["usageTotalUsd"] + sum(_PRICES.values())
        assert final["usageTotalUsd"] == pytest.approx(expected) == pytest.approx(sum(final["usageUsd"].values()))
        listed = (await api.get("/v2/actor-runs")).data["items"][0]
        assert listed["usageTotalUsd"] == final["usageTotalUsd"]


async def test_a_server_without_work_uses_no_processor(tmp_path: Path) -> None:
    """Also one that makes usage final at once, as a batch's own server does: all its children wait."""
    async with open_api(tmp_path / "server", usage_settle_s=0) as api:
        await _settled(api, (await _echo(api))["id"])
        with anyio.fail_after(60):
            await anyio.wait_all_tasks_blocked()


async def test_a_live_run_shows_what_it_has_used_so_far(tmp_path: Path) -> None:
    """Time and storages, each time it is read."""
    pushed, goes_on = anyio.Event(), anyio.Event()

    async def slow(context: InlineContext) -> None:
        await context.push_items([{"n": n} for n in range(1000)])
        pushed.set()
        await goes_on.wait()

    async with open_api(tmp_path, inline_actors={"test/slow": slow}, usage_settle_s=0) as api:
        run = await api.run_actor("test~slow")
        await pushed.wait()
        live = (await api.get(f"/v2/actor-runs/{run['id']}")).data
        assert (live["status"], live["usage"]["DATASET_WRITES"]) == ("RUNNING", 1000)
        assert live["usageTotalUsd"] == pytest.approx(sum(live["usageUsd"].values()))
        goes_on.set()
        ended = await api.finish(run["id"])
        assert 1000 * _PRICES["DATASET_WRITES"] < live["usageTotalUsd"] <= ended["usageTotalUsd"]


async def test_what_was_not_settled_is_settled_after_a_restart(tmp_path: Path) -> None:
    """Once: the account's sums do not count it again."""
    async with open_api(tmp_path, usage_settle_s=3600) as api:
        run = await _echo(api)
    database = tmp_path / "server.sqlite3"
    await _make_due(database)
    for _ in range(2):
        async with open_api(tmp_path, usage_settle_s=3600) as api:
            final = await _settled(api, run["id"])
            month = (await api.get("/v2/users/me/usage/monthly")).data
            assert month["totalUsageCreditsUsdAfterVolumeDiscount"] == pytest.approx(final["usageTotalUsd"])


async def _make_due(file: Path) -> None:
    async with open_database(file) as database:
        await database.write(lambda connection: connection.execute("UPDATE runs SET settle_ms = 1").rowcount)


async def test_a_month_adds_up_its_runs(api: Api) -> None:
    """By usage item and day; the limits show the same sum; another month is empty."""
    runs = [await _echo(api) for _ in range(3)]
    month = (await api.get("/v2/users/me/usage/monthly")).data
    total = sum(run["usageTotalUsd"] for run in runs)
    writes = month["monthlyServiceUsage"]["DATASET_WRITES"]
    assert (writes["quantity"], writes["baseUnitPriceUsd"]) == (3, 0.000005)
    assert month["totalUsageCreditsUsdBeforeVolumeDiscount"] == pytest.approx(total)
    (day,) = month["dailyServiceUsages"]
    assert day["date"][:10] == datetime.now(UTC).date().isoformat()
    assert day["totalUsageCreditsUsd"] == pytest.approx(total)
    limits = (await api.get("/v2/users/me/limits")).data
    assert limits["current"]["monthlyUsageUsd"] == pytest.approx(total)
    other = (await api.get("/v2/users/me/usage/monthly", date="2020-06-14")).data
    assert other["usageCycle"] == {"startAt": "2020-06-01T00:00:00.000Z", "endAt": "2020-06-30T23:59:59.999Z"}
    assert (other["monthlyServiceUsage"], other["dailyServiceUsages"]) == ({}, [])


async def test_a_month_without_usage_names_the_price_of_a_compute_unit(tmp_path: Path) -> None:
    """A batch with a budget needs it before the first Run."""
    async with open_api(tmp_path) as api:
        month = (await api.get("/v2/users/me/usage/monthly")).data
        units = month["monthlyServiceUsage"]["ACTOR_COMPUTE_UNITS"]
        assert (units["quantity"], units["baseUnitPriceUsd"], month["dailyServiceUsages"]) == (0, 0.25, [])


@pytest.mark.parametrize("date", ["yesterday", "2020-13-01", "9999-12-31", "0001-01-01"])
async def test_a_date_that_is_none_is_refused(api: Api, date: str) -> None:
    """400, naming the parameter."""
    assert (await api.get("/v2/users/me/usage/monthly", date=date)).refusal == (400, "invalid-value")


async def test_a_resurrected_run_counts_what_it_adds(api: Api) -> None:
    """The month's sum is the Run's sum, though it has ended twice."""
    run = await _echo(api)
    await api.send("POST", f"/v2/actor-runs/{run['id']}/resurrect")
    again = await api.finish(run["id"])
    month = (await api.get("/v2/users/me/usage/monthly")).data
    assert again["usage"]["DATASET_WRITES"] == month["monthlyServiceUsage"]["DATASET_WRITES"]["quantity"] == 2
    assert month["totalUsageCreditsUsdAfterVolumeDiscount"] == pytest.approx(again["usageTotalUsd"])
    assert again["stats"]["runTimeSecs"] >= run["stats"]["runTimeSecs"]


async def test_a_spending_limit_stops_starts(tmp_path: Path) -> None:
    """Set by PUT, kept over a restart; a limit below what is spent is refused."""
    async with open_api(tmp_path, usage_settle_s=0) as api:
        await _echo(api)
        refused = await api.send("PUT", "/v2/users/me/limits", {"maxMonthlyUsageUsd": 0})
        assert (refused.status, refused.error_type) == (400, "monthly-usage-limit-too-low")
        spent = (await api.get("/v2/users/me/limits")).data["current"]["monthlyUsageUsd"]
        changed = await api.send("PUT", "/v2/users/me/limits", {"maxMonthlyUsageUsd": spent, "dataRetentionDays": 9})
        assert changed.status == 201
    async with open_api(tmp_path, usage_settle_s=0) as api:
        limits = (await api.get("/v2/users/me/limits")).data["limits"]
        assert (limits["maxMonthlyUsageUsd"], limits["dataRetentionDays"]) == (spent, 9)
        (run,) = (await api.get("/v2/actor-runs")).data["items"]
        for path in ("/v2/actors/test~echo/runs", f"/v2/actor-runs/{run['id']}/resurrect"):
            assert (await api.send("POST", path, {})).refusal == (403, "platform-feature-disabled")


async def test_reads_are_counted(api: Api) -> None:
    """Of items, of records and of keys; they show on the storage soon after."""
    run = await _echo(api)
    dataset, store = f"/v2/datasets/{run['defaultDatasetId']}", f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}"
    for path in (f"{dataset}/items", f"{store}/records/INPUT", f"{store}/records/INPUT", f"{store}/keys"):
        assert (await api.get(path)).status == 200
    await _echo(api)  # with whose end what was read is kept
    assert (await api.get(dataset)).data["stats"]["readCount"] == 1
    stats = (await api.get(store)).data["stats"]
    assert (stats["readCount"], stats["listCount"]) == (2, 1)


async def test_an_actor_is_paid_per_event(tmp_path: Path) -> None:
    """A charge counts once per idempotency key and shows in the cost; what has no price is refused."""
    async with open_api(tmp_path / "server", actors=(ACTORS,), usage_settle_s=0) as api:
        run = (await api.send("POST", "/v2/actors/local~paid/runs")).data
        assert run["pricingInfo"]["pricingPerEvent"]["actorChargeEvents"]["page"]["eventPriceUsd"] == 0.01
        await _runs(api, run["id"])
        path, once = f"/v2/actor-runs/{run['id']}/charge", {"idempotency-key": "k"}
        for _ in range(2):
            assert (await api.send("POST", path, {"eventName": "page", "count": 2}, headers=once)).status == 201
        assert (await api.send("POST", path, {"eventName": "page", "count": 1})).status == 201
        assert (await api.send("POST", path, {"eventName": "pages", "count": 1})).status == 400
        await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")
        ended = await api.finish(run["id"])
    assert ended["chargedEventCounts"] == {"page": 3}
    assert ended["usageTotalUsd"] == pytest.approx(0.03 + sum(ended["usageUsd"].values()))


async def test_charges_beyond_the_runs_limit_stop_it_and_cost_nothing(api: Api) -> None:
    """The platform takes the charge and then terminates the Run: SDKs charge one event too many for this purpose.

    Source: the API reference, "Charge events in run"; the JavaScript SDK's charging manager.
    """
    run = (await api.send("POST", "/v2/actors/local~paid/runs", maxTotalChargeUsd=0.02)).data
    await _runs(api, run["id"])
    path, charge = f"/v2/actor-runs/{run['id']}/charge", {"eventName": "page", "count": 2}
    assert (await api.send("POST", path, charge)).status == 201
    assert (await api.get(f"/v2/actor-runs/{run['id']}")).data["status"] == "RUNNING"
    assert (await api.send("POST", path, charge)).status == 201
    ended = await api.finish(run["id"])
    assert (ended["status"], "maxTotalChargeUsd (0.02 USD)" in ended["statusMessage"]) == ("ABORTED", True)
    assert ended["chargedEventCounts"] == {"page": 4}
    assert ended["usageTotalUsd"] == pytest.approx(0.02 + sum(ended["usageUsd"].values()))


async def test_the_platforms_own_events_are_counted_and_billed(tmp_path: Path) -> None:
    """A start per GB of memory, an item of the default dataset; again at a resurrection; the month agrees."""
    actor = anyio.Path(tmp_path / "priced")
    await (actor / ".actor").mkdir(parents=True)
    events = {
        "apify-actor-start": {"eventPriceUsd": 0.001},
        "apify-default-dataset-item": {"eventPriceUsd": 0.01},
        "page": {"eventPriceUsd": 0.1},
    }
    definition = {"actorSpecification": 1, "name": "priced", "version": "0.1", "localChargeEvents": events}
    await (actor / ".actor" / "actor.json").write_bytes(orjson.dumps(definition))
    await (actor / "__main__.py").write_text("import time; time.sleep(1000)")
    async with open_api(tmp_path / "server", actors=(tmp_path / "priced",), usage_settle_s=0, abort_grace_s=0.1) as api:
        run = (await api.send("POST", "/v2/actors/local~priced/runs", memory=2048, maxTotalChargeUsd=0.05)).data
        assert run["chargedEventCounts"] == {"apify-actor-start": 2, "apify-default-dataset-item": 0, "page": 0}
        await _runs(api, run["id"])
        items = f"/v2/actor-runs/{run['id']}/dataset/items"
        assert (await api.send("POST", items, [{}, {"a": 1}])).status == 201
        shown = (await api.get(f"/v2/actor-runs/{run['id']}")).data
        assert (shown["status"], shown["chargedEventCounts"]["apify-default-dataset-item"]) == ("RUNNING", 2)
        path = f"/v2/actor-runs/{run['id']}/charge"
        assert (await api.send("POST", path, {"eventName": "apify-actor-start"})).status == 400
        assert (await api.send("POST", path, {"eventName": "page", "count": 2**64 - 1})).status == 400
        assert (await api.send("POST", items, [{}, {}, {}])).status == 201
        ended = await api.finish(run["id"])
        assert (ended["status"], ended["chargedEventCounts"]["apify-default-dataset-item"]) == ("ABORTED", 5)
        assert ended["usageTotalUsd"] == pytest.approx(0.05 + sum(ended["usageUsd"].values()))
        assert (await api.send("POST", items, [{}])).status == 201
        again = (await api.send("POST", f"/v2/actor-runs/{run['id']}/resurrect", maxTotalChargeUsd=1)).data
        assert again["chargedEventCounts"] == {"apify-actor-start": 4, "apify-default-dataset-item": 5, "page": 0}
        ended = await _pay(api, run["id"], 1)
        assert ended["usageTotalUsd"] == pytest.approx(0.154 + sum(ended["usageUsd"].values()))
        month = (await api.get("/v2/users/me/usage/monthly")).data
        assert month["monthlyServiceUsage"]["PAID_ACTORS_PER_EVENT"]["baseAmountUsd"] == pytest.approx(0.154)
        assert month["totalUsageCreditsUsdAfterVolumeDiscount"] == pytest.approx(ended["usageTotalUsd"])


async def _pay(api: Api, run_id: str, count: int) -> Any:
    """Charge for some events of a running Run, and end it."""
    await _runs(api, run_id)
    charge = {"eventName": "page", "count": count}
    assert (await api.send("POST", f"/v2/actor-runs/{run_id}/charge", charge)).status == 201
    await api.send("POST", f"/v2/actor-runs/{run_id}/abort")
    return await api.finish(run_id)


async def test_charges_count_in_the_month_and_towards_the_limit(api: Api) -> None:
    """Once, though the Run is resurrected and charged again; a limit that they have reached stops starts."""
    run = (await api.send("POST", "/v2/actors/local~paid/runs")).data
    first = await _pay(api, run["id"], 3)
    assert (await api.get("/v2/users/me/limits")).data["current"]["monthlyUsageUsd"] == pytest.approx(
        first["usageTotalUsd"]
    )
    await api.send("POST", f"/v2/actor-runs/{run['id']}/resurrect")
    second = await _pay(api, run["id"], 4)
    month = (await api.get("/v2/users/me/usage/monthly")).data
    assert second["usageTotalUsd"] > 0.07
    assert month["totalUsageCreditsUsdAfterVolumeDiscount"] == pytest.approx(second["usageTotalUsd"])
    assert month["monthlyServiceUsage"]["PAID_ACTORS_PER_EVENT"]["baseAmountUsd"] == pytest.approx(0.07)
    assert (await api.send("PUT", "/v2/users/me/limits", {"maxMonthlyUsageUsd": 0.075})).status == 201
    assert (await api.send("POST", "/v2/actors/test~echo/runs", {}, waitForFinish=60)).status == 201
    await _pay(api, (await api.send("POST", "/v2/actors/local~paid/runs")).data["id"], 1)
    assert (await api.send("POST", "/v2/actors/test~echo/runs", {})).refusal == (403, "platform-feature-disabled")


async def test_an_actor_that_is_free_cannot_charge(api: Api) -> None:
    """400 with the platform's type; a Run that has ended is no more charged."""
    run = (await api.send("POST", "/v2/actors/local~acrobat/runs", {"do": "hang"})).data
    await _runs(api, run["id"])
    path = f"/v2/actor-runs/{run['id']}"
    charged = await api.send("POST", f"{path}/charge", {"eventName": "page", "count": 1})
    assert (charged.status, charged.error_type) == (400, "cannot-charge-non-pay-per-event-actor")
    await api.send("POST", f"{path}/abort")
    await api.finish(run["id"])
    charged = await api.send("POST", f"{path}/charge", {"eventName": "page", "count": 1})
    assert (charged.status, charged.error_type) == (403, "job-finished")


async def test_the_sdk_and_the_server_count_the_same_events(tmp_path: Path) -> None:
    """The SDK keeps to the limit by itself, its own events and the platform's together."""
    actor = anyio.Path(tmp_path / "counting")
    await (actor / ".actor").mkdir(parents=True)
    events = {"apify-default-dataset-item": {"eventPriceUsd": 0.001}, "page": {"eventPriceUsd": 0.01}}
    definition = {"actorSpecification": 1, "name": "counting", "version": "0.1", "localChargeEvents": events}
    await (actor / ".actor" / "actor.json").write_bytes(orjson.dumps(definition))
    await (actor / "__main__.py").write_text(
        "import asyncio\nfrom apify import Actor\n"
        "async def main():\n"
        "    async with Actor:\n"
        "        await Actor.push_data([{'n': n} for n in range(3)], charged_event_name='page')\n"
        "        await Actor.push_data([{'n': n} for n in range(10)], charged_event_name='page')\n"
        "        charging = Actor.get_charging_manager()\n"
        "        counts = {name: charging.get_charged_event_count(name)\n"
        "                  for name in ('page', 'apify-default-dataset-item')}\n"
        "        await Actor.set_value('COUNTS', counts)\n"
        "asyncio.run(main())\n"
    )
    async with open_api(tmp_path / "server", actors=(tmp_path / "counting",), usage_settle_s=0) as api:
        run = await api.finish((await api.run_actor("local~counting", maxTotalChargeUsd=0.05))["id"])
        counts = (await api.get(f"/v2/actor-runs/{run['id']}/key-value-store/records/COUNTS")).body
        items = await api.items(run)
        log = (await api.get(f"/v2/logs/{run['id']}")).body.decode()
    assert run["status"] == "SUCCEEDED", log
    assert run["chargedEventCounts"] == counts == {"page": 4, "apify-default-dataset-item": 4}
    assert len(items) == 4
    assert run["usageTotalUsd"] == pytest.approx(0.044 + sum(run["usageUsd"].values()))
