"""Faults of the server: what the file may say, and which requests they strike."""

from pathlib import Path
from typing import Any

import pytest

from batchrun.errors import ConfigError
from batchrun.server.faults.fault_file import Faults, load_faults, parse_faults
from batchrun.server.faults.fault_kinds import KINDS
from batchrun.server.faults.fault_plan import Asked, FaultPlan
from batchrun.server.faults.fault_routes import names_route
from batchrun.server.faults.fault_script import FaultScript

START = Asked(method="POST", template="/v2/actor-tasks/{task}/runs")
GET_RUN = Asked(method="GET", template="/v2/actor-runs/{run}")
ROUTES = [(asked.method, asked.template) for asked in (START, GET_RUN)]


def script(*faults: dict[str, Any], seed: int = 1) -> FaultScript:
    """Return a script of faults as a file would give them."""
    return FaultScript(parse_faults({"seed": seed, "fault": list(faults)}))


def struck(plans: list[FaultPlan]) -> list[bool]:
    """Return which requests were struck."""
    return [plan != FaultPlan() for plan in plans]


def test_the_example_holds_every_kind_of_fault():
    """What the commented example shows is all there is, and loads."""
    faults = load_faults(Path(__file__).parents[2] / "configs" / "faults.toml")
    assert {fault.kind for fault in faults.fault} == set(KINDS)
    assert (faults.seed, faults.source) == (1, Path(__file__).parents[2] / "configs" / "faults.toml")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("seeed = 1", "faults.toml: seeed: is not a known key"),
        ('source = "x"', "faults.toml: source: is not a known key"),
        ("[[fault]]", "faults.toml: fault.0.kind: is missing; a fault has one of the kinds reset_before, "),
        ('[[fault]]\nkind = "drop_anser"', "fault.0.kind: is not a known kind of fault; did you mean drop_answer?"),
        ('[[fault]]\nkind = "drop_answer"\nprobabilty = 1', "fault.0.probabilty: is not a known key"),
        ('[[fault]]\nkind = "drop_answer"\nprobability = 2', "fault.0.probability: the value should be less than"),
        ('[[fault]]\nkind = "latency"', "fault.0.seconds: is missing"),
        ('[[fault]]\nkind = "capacity"\nstatus = 500', "fault.0.status: the value should be 402 or 400"),
        ('[[fault]]\nkind = "drop_answer"\nroutes = ["GET"]', "fault.0.routes.0: must be a method and a path"),
        ('[[fault]]\nkind = "drop_answer"\nroutes = ["GET /demo/x"]', "fault.0.routes.0: must be a method and a path"),
        ('[[fault]]\nkind = "drop_answer"\nroutes = []', "fault.0.routes: List should have at least 1 item"),
        ("[[fault]", "faults.toml: cannot be read"),
    ],
)
def test_what_a_file_must_not_say_is_named(tmp_path, toml, message):
    """File, key, and what is wrong with it."""
    file = tmp_path / "faults.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        load_faults(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(file))


def test_a_missing_file_is_named(tmp_path):
    """No traceback for a file that is not there."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_faults(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("pattern", "method", "template", "expected"),
    [
        ("GET /v2/actor-runs/*", "GET", "/v2/actor-runs/{run}", True),
        ("GET /v2/actor-runs/{any}", "GET", "/v2/actor-runs/{run}", True),
        ("GET /v2/actor-runs/*", "POST", "/v2/actor-runs/{run}", False),
        ("* /v2/actor-runs/*", "POST", "/v2/actor-runs/{run}", True),
        ("GET /v2/actor-runs/*", "GET", "/v2/actor-runs", False),
        ("GET /v2/actor-runs/*", "GET", "/v2/actor-runs/{run}/log", False),
        ("GET /v2/actor-runs/**", "GET", "/v2/actor-runs/{run}/log", True),
        ("GET /v2/actor-runs/abc", "GET", "/v2/actor-runs/{run}", False),
        ("GET /v2/users/*", "GET", "/v2/users/me", True),
    ],
)
def test_a_pattern_means_routes(pattern, method, template, expected):
    """One segment, the rest, any method."""
    assert names_route(pattern, method, template) is expected


def test_a_route_that_is_not_served_is_named():
    """A misspelt pattern would strike nothing, silently."""
    faulty = script({"kind": "drop_answer", "routes": ["starts", "POST /v2/actor-task/*/runs"]})
    with pytest.raises(ConfigError, match=r"fault\.0\.routes: no route that is served matches POST /v2/actor-task/"):
        faulty.check(ROUTES)
    script({"kind": "drop_answer", "routes": ["starts"]}).check(ROUTES)


def test_the_same_seed_strikes_the_same_requests():
    """Another seed strikes others; about as many as the probability says."""
    runs = [
        struck([faulty.decide(START) for _ in range(400)])
        for faulty in (script({"kind": "drop_answer", "probability": 0.25}, seed=seed) for seed in (1, 1, 2))
    ]
    assert runs[0] == runs[1] != runs[2]
    assert 60 <= sum(runs[0]) <= 140


def test_a_fault_added_at_the_end_changes_nothing_of_the_others():
    """Each has random numbers of its own."""
    drop = {"kind": "drop_answer", "probability": 0.5, "routes": ["starts"]}
    slow = {"kind": "latency", "seconds": 1.0, "probability": 0.5}
    alone, together = script(drop), script(drop, slow)
    spoilt = [(alone.decide(START).spoiler, together.decide(START).spoiler) for _ in range(50)]
    assert all(one == other for one, other in spoilt)


def test_after_and_count_bound_a_fault():
    """The first n matches are let through, then it strikes so many times; other routes do not count."""
    faulty = script({"kind": "drop_answer", "routes": ["starts"], "after": 2, "count": 3})
    others = [faulty.decide(GET_RUN) for _ in range(5)]
    assert struck([faulty.decide(START) for _ in range(8)]) == [False] * 2 + [True] * 3 + [False] * 3
    assert struck(others) == [False] * 5


def test_a_burst_refuses_in_a_row():
    """Once struck, the next ones are refused whatever the probability; the count is of refused requests."""
    faulty = script({"kind": "rate_limit", "probability": 0.1, "burst": 4, "count": 8})
    refused = struck([faulty.decide(START) for _ in range(500)])
    first = refused.index(True)
    assert refused[first : first + 4] == [True] * 4
    assert sum(refused) == 8


def test_a_sticky_fault_goes_by_what_is_asked_for():
    """The order does not matter, nor how often; about as many are struck as the probability says."""
    faulty = script({"kind": "garbage", "probability": 0.25, "sticky": True})
    asked = [Asked(method="GET", template=GET_RUN.template, subject=b"%d" % n) for n in range(400)]
    fates = struck([faulty.decide(each) for each in asked])
    assert fates[::-1] == struck([faulty.decide(each) for each in reversed(asked)])
    assert 60 <= sum(fates) <= 140
    assert faulty.needs_subject("GET", GET_RUN.template)
    assert not script({"kind": "garbage"}).needs_subject("GET", GET_RUN.template)


def test_actors_are_spared_unless_named():
    """`actors = true` strikes them too."""
    at_work = Asked(method="POST", template=START.template, is_from_actor=True)
    assert script({"kind": "drop_answer"}).decide(at_work) == FaultPlan()
    assert script({"kind": "drop_answer", "actors": True}).decide(at_work).spoiler is not None


def test_a_refusal_leaves_nothing_for_the_others():
    """What stands behind it neither strikes nor counts the request."""
    faulty = script(
        {"kind": "drop_answer", "count": 1},
        {"kind": "error_before", "count": 1},
        {"kind": "no_echo"},
    )
    first, second = faulty.decide(START), faulty.decide(START)
    assert (first.refusal is not None, first.spoiler, first.hides_user_agent) == (True, None, False)
    assert (second.refusal, second.spoiler is not None, second.hides_user_agent) == (None, True, True)


def test_the_first_spoiler_wins_and_latencies_and_skews_add_up():
    """One answer suffers once; time is lost as often as it is taken."""
    faulty = script(
        {"kind": "garbage"},
        {"kind": "truncate", "count": 1},
        {"kind": "latency", "seconds": 2.0},
        {"kind": "latency", "seconds": 40.0},
        {"kind": "latency", "seconds": 3.0, "where": "after"},
        {"kind": "skewed_date", "seconds": 3600.0},
        {"kind": "skewed_date", "seconds": -40.0},
    )
    plan = faulty.decide(START)
    assert plan.date_skew_s == 3560.0
    assert plan.spoiler is not None
    assert (plan.spoiler.kind, plan.delay_before_s, plan.delay_after_s) == ("garbage", 42.0, 3.0)


def test_a_pareto_latency_has_a_long_tail_that_is_cut():
    """At least `seconds`, mostly little more, at most `max_seconds`."""
    faulty = script(
        {"kind": "latency", "distribution": "pareto", "seconds": 0.1, "shape": 1.0, "max_seconds": 5.0}, seed=7
    )
    drawn = sorted(faulty.decide(START).delay_before_s for _ in range(1000))
    assert drawn[0] >= 0.1
    assert drawn[500] < 0.3
    assert drawn[-1] == 5.0


def test_a_run_is_not_found_only_while_it_is_fresh():
    """Older and unknown Runs neither suffer nor count."""
    faulty = script({"kind": "fresh_404", "seconds": 3.0, "count": 1})
    ages = [None, 3.0, 2.9, 2.9]
    asked = [Asked(method="GET", template=GET_RUN.template, run_age_s=age) for age in ages]
    assert struck([faulty.decide(each) for each in asked]) == [False, False, True, False]
    assert faulty.needs_run_age("GET", GET_RUN.template)
    assert not faulty.needs_run_age("POST", START.template)


def test_no_faults_do_nothing():
    """An empty file is allowed."""
    assert FaultScript(Faults()).decide(START) == FaultPlan()
