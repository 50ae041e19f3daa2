"""Checks of a job file before the first start: inputs, options, lines in vain."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrun.account.task import Task
from batchrun.apify.wire import AccountInfo, AccountLimits
from batchrun.config import load_config
from batchrun.errors import JobFileError
from batchrun.jobs.template import Template
from batchrun.model import RunOptions, TaskId, write_json
from batchrun.preflight.builds import Build
from batchrun.preflight.input_checks import HeadCheck, JobCheck, job_check
from batchrun.preflight.input_schema import InputSchema
from batchrun.preflight.job_file_head import refuse_head
from batchrun.preflight.line_problems import MAX_PROBLEM_CHARS, MAX_PROBLEMS, OTHER_PROBLEMS, LineProblem, LineProblems
from batchrun.preflight.odd_values import odd_values
from tests.support.job_checks import BUILD, check_of, job_with


def test_an_override_lies_over_the_task_over_the_defaults():
    """Property by property, top level only, as the platform merges."""
    assert check_of().look_at(job_with(1, {})).problems == ["Field input.mode is required"]
    assert check_of({"mode": "a"}).look_at(job_with(1, {})).problems == []
    assert check_of({"mode": "a", "maxPages": 0}).look_at(job_with(1, {})).problems == [
        "Field input.maxPages must be >= 1"
    ]
    assert check_of({"mode": "a", "maxPages": 0}).look_at(job_with(1, {"maxPages": 5})).problems == []
    assert check_of({"mode": "a"}).look_at(job_with(1, {"maxPages": None})).problems == [
        "Field input.maxPages must be integer"
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"memory_mb": 4096}, None),
        ({"memory_mb": 128}, "The Actor takes 256 to 4,096 MB of memory, not 128 MB"),
        ({"memory_mb": 8192}, "The Actor takes 256 to 4,096 MB of memory, not 8,192 MB"),
        ({"build": "beta"}, None),
        ({"build": "0.0.7"}, None),
        ({"build": "nope"}, "The Actor has no build 'nope'; it has latest, same, beta"),
    ],
)
def test_options_that_would_be_refused_are_problems(options, problem):
    """A job's own options are checked, and for jobs without any those of the batch."""
    wanted = [problem] if problem is not None else []
    assert check_of().look_at(job_with(1, {"mode": "a"}, **options)).problems == wanted
    assert check_of(**options).look_at(job_with(1, {"mode": "a"})).problems == wanted
    assert check_of(**options).look_at(job_with(1, {"mode": "a"}, timeout_s=5)).problems == wanted


def test_a_run_larger_than_the_account_is_a_problem():
    """Such a Run could never start."""
    check = check_of(known=Build(asked="latest", why_unchecked="so"), memory_mb=16384)
    assert check.look_at(job_with(1, {})).problems == [
        "A Run of 16,384 MB does not fit into the account's 8,192 MB of memory"
    ]


def test_inputs_for_another_build_are_not_checked():
    """A tag or number of the same build is recognised; jobs with another build are counted."""
    check = check_of()
    for build, problems in (("same", 1), ("0.1.2", 1), ("latest", 1), ("beta", 0), ("0.0.9", 0), ("nope", 1)):
        assert len(check.look_at(job_with(1, {}, build=build)).problems) == problems, build
    assert check.of_other_builds == 2


def test_problems_are_grouped_with_their_first_lines():
    """One message covers many lines; the problem with the most lines comes first."""
    problems = LineProblems()
    for line in (3, 17, 240, *range(300, 409)):
        problems.note(line, ["Field input.maxPages must be >= 1"])
    problems.note(500, ["one", "two"])
    problems.note(501, ["two"])
    assert problems.lines == 114
    assert list(map(str, problems)) == [
        "lines 3, 17, 240 and 109 more: Field input.maxPages must be >= 1",
        "lines 500, 501: two",
        "line 500: one",
    ]


def test_a_line_counts_once_whatever_the_matrix():
    """The jobs of one matrix line count as one line."""
    problems = LineProblems()
    for _ in range(5):
        problems.note(7, ["one"])
    assert (problems.lines, list(problems)) == (1, [LineProblem(message="one", count=1, lines=[7])])


def test_endless_kinds_of_problems_are_bounded():
    """Beyond MAX_PROBLEMS, problems are counted under one message."""
    problems = LineProblems()
    for line in range(1, 3 * MAX_PROBLEMS + 1):
        problems.note(line, [f"message {line}"])
    found = list(problems)
    assert len(found) == MAX_PROBLEMS + 1
    assert found[0] == LineProblem(
        message=OTHER_PROBLEMS, count=2 * MAX_PROBLEMS, lines=[MAX_PROBLEMS + 1, MAX_PROBLEMS + 2, MAX_PROBLEMS + 3]
    )
    assert problems.lines == 3 * MAX_PROBLEMS


def test_long_problems_are_cut():
    """So that names of megabytes in the lines of others are not kept for each problem."""
    name = "x" * 100_000
    found = check_of().look_at(job_with(1, {f"{name}{n}": n for n in range(100)}))
    assert len(found.futile) == 20
    assert max(map(len, found.futile)) < 1_000
    problems = LineProblems()
    problems.note(1, [name])
    assert len(next(iter(problems)).message) == MAX_PROBLEM_CHARS


def test_odd_values_of_long_names_are_few_and_short():
    """Each message would repeat the names above its value."""
    body = write_json({"x" * 100_000: {str(n): 2**53 + 1 for n in range(10_000)}})
    found = odd_values(body)
    assert 0 < sum(map(len, found)) < 1_000_000


def test_the_head_is_judged_by_the_same_check():
    """Problems by line; nothing to say of good ones."""
    head = HeadCheck(check_of())
    head.look_at(job_with(1, {"mode": "a"}))
    assert not head.problems
    head.look_at(job_with(2, {"mode": "c"}))
    assert [problem.lines for problem in head.problems] == [[2]]


@pytest.mark.parametrize(
    ("override", "futile"),
    [
        ({"maxPages": 7}, []),
        (
            {"mode": "b", "extra": 1},
            ["sets 'extra', which the Actor's input schema does not name; it names mode, maxPages"],
        ),
        (
            {"maxpages": 7},
            ["sets 'maxpages', which the Actor's input schema does not name; did you mean 'maxPages'?"],
        ),
        (
            {"max\u200bPage ": 7},
            ["sets 'max\\u200bPage ', which the Actor's input schema does not name; did you mean 'maxPages'?"],
        ),
        ({}, ["changes nothing of the task's input"]),
        ({"mode": "a"}, ["changes nothing of the task's input"]),
        ({"maxPages": 3}, ["comes to the same input as an earlier line"]),
        ({"maxPages": 3, "mode": "a"}, ["comes to the same input as an earlier line"]),
        ({"ofTask": 2}, []),
    ],
)
def test_what_sets_nothing_new_is_found(override: dict[str, Any], futile: list[str]) -> None:
    """Unknown properties, no change of the task's input, an input that an earlier line has."""
    schema = InputSchema({"properties": {"mode": {"type": "string"}, "maxPages": {"type": "integer"}}})
    check = check_of({"mode": "a", "ofTask": 1}, Build(asked="latest", schema=schema))
    assert check.look_at(job_with(1, {"maxPages": 3})).futile == []
    assert check.look_at(job_with(2, override)).futile == futile


def test_an_equal_input_with_other_options_is_another_run():
    """Memory or time may be what the author tries out."""
    check = check_of()
    assert check.look_at(job_with(1, {"mode": "a"})).futile == []
    assert check.look_at(job_with(2, {"mode": "a"}, memory_mb=256)).futile == []
    assert check.look_at(job_with(3, {"mode": "a"}, memory_mb=256)).futile == [
        "comes to the same input as an earlier line"
    ]


def test_without_a_schema_names_that_cannot_be_seen_are_found():
    """A blank at an end, or a character without width, is no part of a name that a person writes."""
    check = check_of(known=Build(asked="latest", why_unchecked="so"))
    assert check.look_at(job_with(1, {"url": 1})).futile == []
    for name in ("url ", "\u200burl", "\ufeffurl"):
        assert check.look_at(job_with(2, {name: 1})).futile == [
            f"sets {name!r}, a name with characters that cannot be seen"
        ]


def test_an_input_is_shown_whole_and_without_secrets():
    """Defaults, the task's input and the override, as the platform merges them."""
    schema = InputSchema({"properties": {"n": {"default": 1}, "key": {"type": "string", "isSecret": True}, "url": {}}})
    check = check_of({"key": "abc"}, Build(asked="latest", schema=schema))
    assert check.shown(job_with(1, {"url": "u"})) == '{"n":1,"key":"***","url":"u"}'
    without_schema = check_of({}, Build(asked="latest", why_unchecked="so"))
    shown = without_schema.shown(job_with(1, {"login": {"password": "abc"}, "n": 12345678901234567890123}))
    assert shown == '{"login":{"password":"***"},"n":12345678901234567890123}'


@pytest.mark.parametrize(
    ("kind", "column", "example"),
    [
        ("array", "Product URL", "wanted = ['{{Product URL}}']"),
        ("integer", "n", "wanted = '{{n:int}}'"),
        ("string", "dc:url", "wanted = '{{\"dc:url\"}}'"),
    ],
)
def test_an_example_says_which_column_goes_where(kind: str, column: str, example: str) -> None:
    """It names the first unknown column and the first property that is still required; the example is a template."""
    schema = InputSchema({"properties": {"other": {}, "wanted": {"type": kind}}, "required": ["wanted"]})
    check = check_of({}, Build(asked="latest", schema=schema))
    check.look_at(job_with(1, {"other": 1, column: "5"}))
    assert check.template_example() == example
    Template(tomllib.loads(example), "jobs.template")


def test_lines_in_vain_stop_a_batch_that_costs_money(tmp_path: Path) -> None:
    """The message says what to write; one setting runs them all the same, and a platform on this machine does."""
    config = load_config(flags={"task.id": "t", "jobs.file": str(tmp_path / "jobs.csv")}, environ={})
    build = Build(asked="latest", schema=InputSchema({"properties": {"startUrls": {"type": "array"}}}))

    def head(*, stops_futile: bool) -> HeadCheck:
        check = JobCheck(
            task_input={}, build=build, options=RunOptions(), account_memory_mb=None, stops_futile=stops_futile
        )
        made = HeadCheck(check)
        for line in (2, 3, 4):
            made.look_at(job_with(line, {"Product URL": "u"}))
        return made

    with pytest.raises(JobFileError) as caught:
        refuse_head(head(stops_futile=True), config)
    assert str(caught.value).splitlines()[1:] == [
        "  lines 2, 3, 4: sets 'Product URL', which the Actor's input schema does not name; it names startUrls",
        "A table [jobs.template] says which column becomes which property, like: startUrls = ['{{Product URL}}']",
        (
            "Nothing was started. Fix them (`batchrun plan` checks the whole file), or set"
            ' jobs.unknown_properties = "allow" to run them all the same'
        ),
    ]
    assert str(caught.value).splitlines()[0].endswith("jobs.csv: 3 lines at its head would buy nothing new:")
    refuse_head(head(stops_futile=False), config)


@pytest.mark.parametrize(
    ("flags", "stops"),
    [({}, True), ({"jobs.unknown_properties": "allow"}, False), ({"api.base_url": "embedded"}, False)],
)
def test_only_a_batch_that_costs_money_and_allows_nothing_stops(flags: dict[str, str], stops: bool) -> None:
    """Elsewhere such lines are noted."""
    config = load_config(flags={"task.id": "t", "jobs.file": "jobs.csv", **flags}, environ={})
    account = AccountInfo(
        username="u", plan=None, limits=AccountLimits(), max_monthly_usage_usd=None, monthly_usage_usd=None
    )
    check = job_check(config, account, Task(id=TaskId("t"), label="t", input={}), BUILD)
    assert check.stops_futile is stops


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ({"startUrls": [{"url": ""}], "mode": "a"}, "column 'Web Site' is empty: Field input.startUrls.*.url must NOT"),
        ({"startUrls": [{"url": None}], "mode": "a"}, "column 'Web Site' is empty: Field input.startUrls.*.url must"),
        ({"startUrls": [{}], "mode": "a"}, "column 'Web Site' is empty: Field input.startUrls.*.url is required"),
        ({"startUrls": [], "mode": "a"}, "column 'Web Site' is empty: Field input.startUrls must NOT have fewer"),
        ({"startUrls": [{"url": "u"}]}, "column 'Mode' is empty: Field input.mode is required"),
        ({"startUrls": [{"url": "u"}], "mode": "c"}, "Field input.mode must be equal to one of the allowed values"),
    ],
)
def test_a_problem_names_the_column_that_is_empty(override: dict[str, Any], start: str) -> None:
    """Where the template takes it for what the Actor refuses; another value has the Actor's words alone."""
    config = load_config(
        flags={
            "task.id": "t",
            "jobs.file": "jobs.csv",
            "jobs.template": {"startUrls": [{"url": "{{Web Site}}"}], "mode": "{{Mode?}}"},
        },
        environ={},
    )
    url = {"type": "object", "properties": {"url": {"type": "string", "minLength": 1}}, "required": ["url"]}
    schema = InputSchema(
        {
            "properties": {
                "startUrls": {"type": "array", "minItems": 1, "items": url},
                "mode": {"type": "string", "enum": ["a", "b"]},
            },
            "required": ["mode"],
        }
    )
    account = AccountInfo(
        username="u", plan=None, limits=AccountLimits(), max_monthly_usage_usd=None, monthly_usage_usd=None
    )
    check = job_check(config, account, Task(id=TaskId("t"), label="t", input={}), Build(asked="latest", schema=schema))
    (problem,) = check.look_at(job_with(2, override)).problems
    assert problem.startswith(start)


def test_two_inputs_that_differ_in_the_last_of_many_digits_are_two() -> None:
    """No digit is lost on the way to the comparison."""
    check = check_of(known=Build(asked="latest", schema=InputSchema({"properties": {"id": {"type": "integer"}}})))
    assert check.look_at(job_with(1, {"id": 5})) == ([], [])
    for line, last in ((2, 7), (3, 8)):
        body = b'{"id":1844674407370955161%d}' % last
        job = replace(job_with(line, {}), body=body)
        assert check.look_at(job) == ([], [])
        assert check.shown(job) == body.decode()
