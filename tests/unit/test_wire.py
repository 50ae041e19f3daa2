import base64
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.apify.wire import (
    AccountInfo,
    AccountLimits,
    ActorInfo,
    BuildInfo,
    format_time,
    options_query,
    parse_account,
    parse_actor,
    parse_build,
    parse_data,
    parse_limits,
    parse_prices,
    parse_run,
    parse_time,
    segment,
    task_options,
)
from batchrun.model import CostSource, Outcome, Record, Run, RunOptions, RunStatus
from batchrun.policy.run_cost import Prices

RUN = {
    "id": "abc",
    "actorTaskId": "task",
    "status": "SUCCEEDED",
    "startedAt": "2026-01-02T03:04:05.678Z",
    "finishedAt": "2026-01-02T03:05:05.678Z",
    "defaultDatasetId": "ds",
    "defaultKeyValueStoreId": "kv",
    "usageTotalUsd": 0.25,
    "meta": {"origin": "API", "userAgent": "batchrun/1 (mark)"},
}


def test_a_run_is_read_whole() -> None:
    """Ids, status, times, cost and mark; the API's own fields are kept as they came."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    assert parse_run(RUN) == Run(
        id="abc",  # type: ignore[arg-type] # ids are their own types
        status=RunStatus.SUCCEEDED,
        dataset_id="ds",  # type: ignore[arg-type] # likewise
        store_id="kv",  # type: ignore[arg-type] # likewise
        started_at=at,
        finished_at=at + timedelta(minutes=1),
        cost_usd=0.25,
        cost_source=CostSource.PLATFORM,
        user_agent="batchrun/1 (mark)",
        fields=RUN,
    )


@pytest.mark.parametrize(
    "missing", ["meta", "usageTotalUsd", "finishedAt", "defaultDatasetId", "defaultKeyValueStoreId"]
)
def test_a_run_in_a_list_may_lack_fields(missing: str) -> None:
    """A missing or null field is None, and never 0."""
    without = {name: value for name, value in RUN.items() if name != missing}
    read = parse_run(without), parse_run({**RUN, missing: None})
    names = {"meta": "user_agent", "usageTotalUsd": "cost_usd", "finishedAt": "finished_at"}
    field = names.get(missing, "dataset_id" if "Dataset" in missing else "store_id")
    assert [getattr(run, field) for run in read] == [None, None]


def test_a_cost_of_0_is_known() -> None:
    """0 is a cost; null is an unknown one."""
    assert [parse_run({**RUN, "usageTotalUsd": cost}).cost_usd for cost in (0, 0.0, 2, None, "1", True)] == [
        0.0, 0.0, 2.0, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("odd", [-1e6, -0.01, 1e10, 1.7e308, math.inf, -math.inf, math.nan, 10**400])
def test_what_cannot_be_a_cost_is_unknown(odd: float) -> None:
    """Reported, or as a price or a count of events; a negative one would give a budget back what it never had."""
    run = parse_run({**RUN, "usageTotalUsd": odd})
    assert (run.cost_usd, run.cost_source) == (None, CostSource.UNKNOWN)
    events = {"page": {"eventPriceUsd": odd}, "other": {"eventPriceUsd": 1e8}}
    pricing = {"pricingModel": "PAY_PER_EVENT", "pricingPerEvent": {"actorChargeEvents": events}}
    for counts in ({"page": 1}, {"other": 100}, {"other": odd}, {"page": 1, "other": 1}):
        run = parse_run({**RUN, "usageTotalUsd": None, "pricingInfo": pricing, "chargedEventCounts": counts})
        assert run.cost_usd is None
    limits = parse_limits({"limits": {"maxActorMemoryGbytes": odd, "maxConcurrentActorJobs": odd}})
    assert limits.max_total_memory_mb in (None, 1024 * 10**6)
    assert limits.max_concurrent_runs in (None, 10**10)


def test_ids_of_storages_are_ids() -> None:
    """They stand in addresses and messages."""
    run = parse_run({**RUN, "defaultDatasetId": "a\nb", "defaultKeyValueStoreId": "x" * 201})
    assert (run.dataset_id, run.store_id) == (None, None)


EVENTS = {"page": {"eventPriceUsd": 0.01}, "start": {"eventPriceUsd": 0.5}, "tiered": {"eventTieredPricingUsd": {}}}
PER_EVENT = {"pricingModel": "PAY_PER_EVENT", "pricingPerEvent": {"actorChargeEvents": EVENTS}}


@pytest.mark.parametrize(
    ("reported", "pricing", "counts", "cost"),
    [
        (0.75, PER_EVENT, {"page": 3}, (0.75, CostSource.PLATFORM)),
        (None, PER_EVENT, {"page": 3, "start": 1}, (0.53, CostSource.DERIVED)),
        (None, PER_EVENT, {}, (0.0, CostSource.DERIVED)),
        (None, PER_EVENT, {"tiered": 0, "page": 1}, (0.01, CostSource.DERIVED)),
        (None, PER_EVENT, {"tiered": 2, "page": 1}, (None, CostSource.UNKNOWN)),
        (None, PER_EVENT, {"renamed": 1}, (None, CostSource.UNKNOWN)),
        (None, {"pricingModel": "FREE"}, {"page": 3}, (None, CostSource.UNKNOWN)),
        (None, None, None, (None, CostSource.UNKNOWN)),
    ],
)
def test_a_cost_has_a_source(
    reported: float | None, pricing: Any, counts: Any, cost: tuple[float | None, CostSource]
) -> None:
    """The platform's figure; else the charged events at known prices; else it is unknown."""
    run = parse_run({**RUN, "usageTotalUsd": reported, "pricingInfo": pricing, "chargedEventCounts": counts})
    assert (run.cost_usd, run.cost_source) == (pytest.approx(cost[0]) if cost[0] is not None else None, cost[1])


@pytest.mark.parametrize("status", list(RunStatus))
def test_all_eight_statuses_are_known(status: RunStatus) -> None:
    """As the API spells them."""
    assert parse_run({**RUN, "status": str(status)}).status is status


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "run",
        {},
        {**RUN, "id": None},
        {**RUN, "id": ""},
        {**RUN, "id": 5},
        {**RUN, "id": "x" * 201},
        {**RUN, "id": "a\nrun `x`"},
        {**RUN, "id": "../users"},
        {**RUN, "id": "ä"},
    ],
)
def test_a_run_without_an_id_is_a_value_error(data: Any) -> None:
    """The caller treats it as a missing answer."""
    with pytest.raises(ValueError, match=r"."):
        parse_run(data)


@pytest.mark.parametrize("status", ["MIGRATING", "", None, 5, {}])
def test_an_unknown_status_is_live_until_the_run_has_ended(status: Any) -> None:
    """A Run is terminal once `finishedAt` is set; what is not known to be a success is none."""
    assert parse_run({**RUN, "status": status, "finishedAt": None}).status is RunStatus.RUNNING
    assert parse_run({**RUN, "status": status}).status is RunStatus.FAILED


@pytest.mark.parametrize("name", [name for name in RUN if name != "id"])
@pytest.mark.parametrize("odd", [None, 5, -1.5, "", "text", [], [None], {}, {"userAgent": []}, True])
def test_no_odd_field_spoils_a_run(name: str, odd: Any) -> None:
    """Every field but the id may be anything; what cannot be read is unknown."""
    run = parse_run({**RUN, "options": odd, "pricingInfo": odd, "chargedEventCounts": odd, name: odd})
    assert run.id == "abc"


@pytest.mark.parametrize("odd", [None, "yesterday", 5, ""])
def test_a_time_that_cannot_be_read_is_none(odd: Any) -> None:
    """A Run that waits in the platform's queue may have none yet."""
    assert parse_run({**RUN, "startedAt": odd}).started_at is None


def test_odd_prices_of_events_leave_the_cost_unknown() -> None:
    """Nothing is added up that is no number."""
    for pricing, counts in (
        ("x", {"page": 1}),
        (PER_EVENT, {"page": "3"}),
        ({**PER_EVENT, "pricingPerEvent": 5}, {"page": 1}),
    ):
        run = parse_run({**RUN, "usageTotalUsd": None, "pricingInfo": pricing, "chargedEventCounts": counts})
        assert run.cost_source is CostSource.UNKNOWN


@pytest.mark.parametrize("infos", [5, ["x", None], [{}], [{"startedAt": None, "pricingModel": "FREE"}]])
def test_odd_prices_of_an_actor_are_unknown(infos: Any) -> None:
    """They stop no batch."""
    prices = parse_prices({"pricingInfos": infos}, {"monthlyServiceUsage": infos}, datetime.now(UTC), is_own=False)
    assert (prices.model, prices.compute_unit_usd) == (None, None)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"data": {"statusMessage": "caf\\ud83d"}}', {"statusMessage": "caf\ufffd"}),
        (b'{"data": {"n": NaN, "m": -Infinity, "big": 1e999}}', {"n": None, "m": None, "big": None}),
        (b'{"data": {"n": 123456789012345678901234567890}}', {"n": pytest.approx(1.2345678901234568e29)}),
    ],
    ids=["surrogate", "nan", "large"],
)
def test_what_orjson_refuses_is_read_and_can_be_written(body: bytes, value: Any) -> None:
    """An Actor's status message may hold half a character."""
    read = parse_data(body)
    assert read == value
    orjson.dumps(read)


def test_json_that_is_nested_too_deep_is_a_value_error() -> None:
    """Not a crash."""
    with pytest.raises(ValueError, match="deep"):
        parse_data(b"[" * 100_000 + b"]" * 100_000)


def test_a_user_agent_that_is_not_a_text_is_none() -> None:
    """The search for a mark reads the User-Agents of all Runs, also of other programs' Runs."""
    assert parse_run({**RUN, "meta": {"userAgent": 5}}).user_agent is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"error":{}}', b"null", b"<html>", b"\xff"])
def test_an_answer_without_data_is_a_value_error(body: bytes) -> None:
    """Each of these bodies lacks the documented envelope."""
    with pytest.raises(ValueError, match=r"."):
        parse_data(body)


def test_data_may_be_anything() -> None:
    """Also null."""
    assert [parse_data(body) for body in (b'{"data":null}', b'{"data":[1]}')] == [None, [1]]


def test_times_are_aware_and_in_utc() -> None:
    """Written with Z, with an offset, or with neither."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    texts = ("2026-01-02T03:04:05.000Z", "2026-01-02T04:04:05+01:00", "2026-01-02T03:04:05")
    assert [parse_time(text) for text in texts] == [at] * 3


def test_times_are_written_as_the_api_does() -> None:
    """In UTC with Z; cut to milliseconds, not rounded up."""
    east = datetime(2026, 1, 2, 4, 4, 5, 999_999, tzinfo=timezone(timedelta(hours=1)))
    assert format_time(east) == "2026-01-02T03:04:05.999Z"


@given(at=st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis adds the zone
def test_times_survive_being_written_and_read(at: datetime) -> None:
    """To the millisecond, and never later than the original."""
    assert timedelta() <= at - parse_time(format_time(at)) < timedelta(milliseconds=1)


def test_all_options_become_the_query_of_run_task() -> None:
    """By the API's own names; an option that is None is left out, so that the task's own stands."""
    webhooks = ({"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "https://x"},)
    options = RunOptions(
        build="beta",
        timeout_s=0,
        memory_mb=512,
        max_items=10,
        max_total_charge_usd=1.5,
        restart_on_error=False,
        webhooks=webhooks,
    )
    query = options_query(options)
    encoded = query.pop("webhooks")
    assert orjson.loads(base64.b64decode(encoded)) == list(webhooks)
    assert query == {
        "build": "beta",
        "timeout": "0",
        "memory": "512",
        "maxItems": "10",
        "maxTotalChargeUsd": "1.5",
        "restartOnError": "false",
    }
    assert options_query(RunOptions()) == {}


def test_task_options_have_the_names_of_a_task() -> None:
    """They differ from the names in the query of a start."""
    assert task_options(RunOptions(build="b", timeout_s=5, memory_mb=256)) == {
        "build": "b", "timeoutSecs": 5, "memoryMbytes": 256,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "path"),
    [("abc", "abc"), ("user/my-task", "user~my-task"), ("user~t", "user~t"), ("a b?c/d/e", "a%20b%3Fc~d%2Fe")],
)
def test_an_id_or_name_is_one_segment_of_a_path(name: str, path: str) -> None:
    """No character in it can lead to another endpoint."""
    assert segment(name) == path


def test_an_account_is_read() -> None:
    """Fields that the token may not read are None, not 0; memory is reported in gigabytes."""
    limits = {
        "limits": {"maxConcurrentActorJobs": 25, "maxActorMemoryGbytes": 8, "maxMonthlyUsageUsd": 49},
        "current": {"activeActorJobCount": 3, "actorMemoryGbytes": 0.125, "monthlyUsageUsd": 1.5},
    }
    assert parse_account({"id": "U1", "username": "u", "plan": {"id": "FREE"}}, limits) == AccountInfo(
        id="U1",
        username="u",
        plan="FREE",
        limits=AccountLimits(max_concurrent_runs=25, live_runs=3, max_total_memory_mb=8192, used_memory_mb=128),
        max_monthly_usage_usd=49.0,
        monthly_usage_usd=1.5,
    )
    assert parse_account({}, {}) == AccountInfo(
        username="?",
        plan=None,
        limits=AccountLimits(),
        max_monthly_usage_usd=None,
        monthly_usage_usd=None,
    )


def test_the_builds_of_an_actor_are_read():
    """A tag without a build is left out; an Actor may show no options and no tags."""
    tagged = {"latest": {"buildId": "b1", "buildNumber": "0.1.2"}, "beta": None, "old": {"buildId": "b0"}}
    options = {"build": "latest", "memoryMbytes": 1024, "timeoutSecs": 0}
    assert parse_actor({"id": "a", "defaultRunOptions": options, "taggedBuilds": tagged}) == ActorInfo(
        id="a", default_build="latest", default_memory_mb=1024, tagged={"latest": ("b1", "0.1.2"), "old": ("b0", None)}
    )
    assert parse_actor({"id": "a"}) == ActorInfo(id="a", default_build="latest", default_memory_mb=None, tagged=None)
    with pytest.raises(ValueError, match="id"):
        parse_actor({})


@pytest.mark.parametrize(
    ("fields", "schema"),
    [
        ({"inputSchema": '{"type": "object"}'}, {"type": "object"}),
        ({"actorDefinition": {"input": {"a": 1}}, "inputSchema": '{"b": 1}'}, {"a": 1}),
        ({"actorDefinition": {"input": "./schema.json"}, "inputSchema": '{"b": 1}'}, {"b": 1}),
        ({"inputSchema": None, "actorDefinition": None}, None),
        ({"inputSchema": "{nope"}, None),
        ({"inputSchema": "[1]"}, None),
        ({"inputSchema": "[" * 5000}, None),
        ({}, None),
    ],
)
def test_the_input_schema_of_a_build_is_read(fields, schema):
    """It is part of the definition, or JSON text; an unreadable one is None."""
    assert parse_build({"id": "b", "buildNumber": "0.1.2", **fields}).input_schema == schema


def test_the_bounds_of_a_build_are_read():
    """Its number, and the least and the most memory."""
    definition = {"minMemoryMbytes": 256, "maxMemoryMbytes": 4096}
    assert parse_build({"id": "b", "buildNumber": "0.1.2", "actorDefinition": definition}) == BuildInfo(
        id="b", number="0.1.2", input_schema=None, min_memory_mb=256, max_memory_mb=4096
    )


PRICED_SINCE = "2026-01-01T00:00:00.000Z"
ANNOUNCED = {"pricingModel": "FREE", "startedAt": "2026-09-01T00:00:00.000Z"}
USAGE = {"monthlyServiceUsage": {"ACTOR_COMPUTE_UNITS": {"quantity": 1, "baseUnitPriceUsd": 0.3}}}


@pytest.mark.parametrize(
    ("info", "prices"),
    [
        ({"pricingModel": "PAY_PER_EVENT", "minimalMaxTotalChargeUsd": 0.1},
         Prices(model="PAY_PER_EVENT", least_cap_usd=0.1, compute_unit_usd=0.3)),
        ({"pricingModel": "PRICE_PER_DATASET_ITEM", "pricePerUnitUsd": 0.005},
         Prices(model="PRICE_PER_DATASET_ITEM", per_item_usd=0.005, compute_unit_usd=0.3)),
        ({"pricingModel": "PRICE_PER_DATASET_ITEM",
          "tieredPricing": {"FREE": {"tieredPricePerUnitUsd": 0.004}, "GOLD": {"tieredPricePerUnitUsd": 0.002}}},
         Prices(model="PRICE_PER_DATASET_ITEM", per_item_usd=0.004, compute_unit_usd=0.3)),
        ({"pricingModel": "FLAT_PRICE_PER_MONTH", "pricePerUnitUsd": 30},
         Prices(model="FLAT_PRICE_PER_MONTH", compute_unit_usd=0.3)),
    ],
)  # fmt: skip
def test_the_prices_in_force_are_read(info: Any, prices: Prices) -> None:
    """Announced prices do not count yet; of prices by tier the highest counts."""
    now = datetime(2026, 5, 1, tzinfo=UTC)
    actor = {"pricingInfos": [{**info, "startedAt": PRICED_SINCE}, ANNOUNCED]}
    assert parse_prices(actor, USAGE, now, is_own=False) == prices
    assert parse_prices({}, {}, now, is_own=True) == Prices(pays_usage=True)


def test_all_storages_that_a_run_names_are_kept_in_its_record() -> None:
    """The default ones and those with an alias, as the API names them."""
    storages = {
        "defaultRequestQueueId": "rq",
        "storageIds": {"datasets": {"default": "ds", "errors": "ds2"}, "keyValueStores": {"default": "kv"}},
    }
    run = parse_run({**RUN, **storages})
    line = orjson.loads(Record(key=None, line=1, outcome=Outcome.SUCCEEDED, run=run.fields).as_line())
    assert line["run"] == {**RUN, **storages}
