"""Checks of a job file before the first start: inputs, options, duplicates, erased fields."""

import tomllib
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from batchrun.account.task import Task
from batchrun.apify.wire import AccountInfo, AccountLimits
from batchrun.config import load_config
from batchrun.errors import JobFileError
from batchrun.jobs.template import Template
from batchrun.model import BadLine, Job, JobKey, Position, RunOptions, TaskId, write_json
from batchrun.preflight.builds import Build
from batchrun.preflight.input_checks import HeadCheck, JobCheck, job_check
from batchrun.preflight.input_schema import InputSchema
from batchrun.preflight.job_file_counts import MAX_GROUPS, REPEATED_KEY, JobFileCounts
from batchrun.preflight.job_file_head import refuse_head
from batchrun.preflight.line_problems import MAX_PROBLEM_CHARS, MAX_PROBLEMS, OTHER_PROBLEMS, LineProblem, LineProblems
from batchrun.preflight.odd_values import odd_values

SCHEMA = InputSchema(
    {
        "properties": {
            "maxPages": {"type": "integer", "minimum": 1, "default": 3},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "proxy": {"type": "object"},
        },
        "required": ["mode"],
    }
)
BUILD = Build(
    asked="latest",
    number="0.1.2",
    schema=SCHEMA,
    min_memory_mb=256,
    max_memory_mb=4096,
    default_memory_mb=1024,
    tags={"latest": "b1", "same": "b1", "beta": "b2"},
)


def _check(task_input: dict[str, Any] | None = None, known: Build = BUILD, **options: Any) -> JobCheck:
    return JobCheck(task_input=task_input or {}, build=known, options=RunOptions(**options), account_memory_mb=8192)


def _job(
    line: int, override: dict[str, Any], *, key: str | None = None, group: str | None = None, **options: Any
) -> Job:
    body = write_json(override)
    digest = sha256(body).digest()[:16]
    return Job(
        key=JobKey(key or digest.hex()),
        digest=digest,
        position=Position(line=line, offset=0, length=1),
        body=body,
        options=RunOptions(**options) if options else None,
        group=group,
    )


def _bad(line: int, reason: str) -> BadLine:
    return BadLine(position=Position(line=line, offset=0, length=1), reason=reason, content="")


def test_an_override_lies_over_the_task_over_the_defaults():
    """Property by property, top level only, as the platform merges."""
    assert _check().look_at(_job(1, {})).problems == ["Field input.mode is required"]
    assert _check({"mode": "a"}).look_at(_job(1, {})).problems == []
    assert _check({"mode": "a", "maxPages": 0}).look_at(_job(1, {})).problems == ["Field input.maxPages must be >= 1"]
    assert _check({"mode": "a", "maxPages": 0}).look_at(_job(1, {"maxPages": 5})).problems == []
    assert _check({"mode": "a"}).look_at(_job(1, {"maxPages": None})).problems == [
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
    assert _check().look_at(_job(1, {"mode": "a"}, **options)).problems == wanted
    assert _check(**options).look_at(_job(1, {"mode": "a"})).problems == wanted
    assert _check(**options).look_at(_job(1, {"mode": "a"}, timeout_s=5)).problems == wanted


def test_a_run_larger_than_the_account_is_a_problem():
    """Such a Run could never start."""
    check = _check(known=Build(asked="latest", why_unchecked="so"), memory_mb=16384)
    assert check.look_at(_job(1, {})).problems == [
        "A Run of 16,384 MB does not fit into the account's 8,192 MB of memory"
    ]


def test_inputs_for_another_build_are_not_checked():
    """A tag or number of the same build is recognised; jobs with another build are counted."""
    check = _check()
    for build, problems in (("same", 1), ("0.1.2", 1), ("latest", 1), ("beta", 0), ("0.0.9", 0), ("nope", 1)):
        assert len(check.look_at(_job(1, {}, build=build)).problems) == problems, build
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
    found = _check().look_at(_job(1, {f"{name}{n}": n for n in range(100)}))
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


def test_only_so_many_groups_and_inputs(monkeypatch):
    """The jobs of further groups are counted together; inputs are kept until they are large."""
    monkeypatch.setattr("batchrun.preflight.shown_inputs.MAX_INPUT_CHARS", 1_000)
    counts = JobFileCounts(_check({"mode": "a"}), {}, shown=100)
    for n in range(MAX_GROUPS + 5):
        counts.look_at(_job(n, {"maxPages": n, "mode": "a" * 400}, group=f"group {n}"))
    counts.look_at(_job(MAX_GROUPS + 5, {"maxPages": 0, "mode": "b"}, group="group 0"))
    assert (len(counts.groups), counts.groups["group 0"], counts.in_other_groups) == (MAX_GROUPS, 2, 5)
    assert len(counts.inputs.kept) == 3


def test_the_lines_of_a_job_file_are_counted():
    """Jobs by group, repeated lines, bad lines, the largest input, memory, what would be refused."""
    counts = JobFileCounts(_check({"mode": "a"}), {})
    for entry in (
        _job(1, {"maxPages": 1}, group="uk"),
        _bad(2, "is not JSON"),
        _job(3, {"maxPages": 0}, group="uk"),
        _job(4, {"maxPages": 1}, group="de"),
        _job(5, {"maxPages": 5}, key="k", memory_mb=2048),
        _job(6, {"maxPages": 6}, key="k"),
        _job(7, {"maxPages": 5}, key="k", memory_mb=2048),
        _job(8, {"maxPages": 0}),
    ):
        counts.look_at(entry)
    assert (counts.jobs, counts.duplicates, counts.bad_lines) == (3, 2, 2)
    assert counts.groups == {"uk": 2, "": 1}
    assert (counts.memory_mb, counts.of_unknown_memory) == (1024 + 1024 + 2048, 0)
    assert counts.largest_body_bytes == len(b'{"maxPages":1}')
    assert sorted(map(str, counts.problems)) == [
        "line 2: is not JSON",
        f"line 6: {REPEATED_KEY}",
        "lines 3, 8: Field input.maxPages must be >= 1",
    ]
    assert counts.problems.lines == 4


def test_a_line_that_replaces_another_is_no_bad_line_of_a_plan() -> None:
    """It counts as one job with it; a later line with the first content, and without `@replaces`, conflicts."""
    counts = JobFileCounts(_check(known=Build(asked="latest", why_unchecked="so")), {})
    first, mending = _job(1, {"n": 1}), replace(_job(2, {"n": 2}), key=_job(1, {"n": 1}).key, replaces=True)
    for job in (first, mending, replace(first, position=_job(3, {}).position)):
        counts.look_at(job)
    assert (counts.jobs, counts.duplicates, counts.bad_lines) == (1, 1, 1)


def test_erased_fields_are_told():
    """An object that replaces one of the task whole erases what it does not name, however deep."""
    task_input = {"proxy": {"useApifyProxy": True, "groups": ["A"], "deep": {"a": 1}}, "mode": "a", "list": [1]}
    counts = JobFileCounts(_check(task_input), task_input)
    overrides: list[dict[str, Any]] = [
        {"proxy": {"useApifyProxy": False, "deep": {"a": 2}}},
        {"proxy": {"useApifyProxy": False, "groups": [], "deep": {}}},
        {"proxy": {"useApifyProxy": False, "groups": [], "deep": {"a": 3, "b": 4}}},
        {"list": [], "mode": "b"},
    ]
    for line, override in enumerate(overrides, 1):
        counts.look_at(_job(line, override))
    assert counts.erased == {"proxy": 2}
    assert counts.erased_fields == {"proxy": {"groups"}}


def test_the_head_is_judged_by_the_same_check():
    """Problems by line; nothing to say of good ones."""
    head = HeadCheck(_check())
    head.look_at(_job(1, {"mode": "a"}))
    assert not head.problems
    head.look_at(_job(2, {"mode": "c"}))
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
    check = _check({"mode": "a", "ofTask": 1}, Build(asked="latest", schema=schema))
    assert check.look_at(_job(1, {"maxPages": 3})).futile == []
    assert check.look_at(_job(2, override)).futile == futile


def test_an_equal_input_with_other_options_is_another_run():
    """Memory or time may be what the author tries out."""
    check = _check()
    assert check.look_at(_job(1, {"mode": "a"})).futile == []
    assert check.look_at(_job(2, {"mode": "a"}, memory_mb=256)).futile == []
    assert check.look_at(_job(3, {"mode": "a"}, memory_mb=256)).futile == ["comes to the same input as an earlier line"]


def test_without_a_schema_names_that_cannot_be_seen_are_found():
    """A blank at an end, or a character without width, is no part of a name that a person writes."""
    check = _check(known=Build(asked="latest", why_unchecked="so"))
    assert check.look_at(_job(1, {"url": 1})).futile == []
    for name in ("url ", "\u200burl", "\ufeffurl"):
        assert check.look_at(_job(2, {name: 1})).futile == [
            f"sets {name!r}, a name with characters that cannot be seen"
        ]


def test_an_input_is_shown_whole_and_without_secrets():
    """Defaults, the task's input and the override, as the platform merges them."""
    schema = InputSchema({"properties": {"n": {"default": 1}, "key": {"type": "string", "isSecret": True}, "url": {}}})
    check = _check({"key": "abc"}, Build(asked="latest", schema=schema))
    assert check.shown(_job(1, {"url": "u"})) == '{"n":1,"key":"***","url":"u"}'
    without_schema = _check({}, Build(asked="latest", why_unchecked="so"))
    shown = without_schema.shown(_job(1, {"login": {"password": "abc"}, "n": 12345678901234567890123}))
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
    check = _check({}, Build(asked="latest", schema=schema))
    check.look_at(_job(1, {"other": 1, column: "5"}))
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
            made.look_at(_job(line, {"Product URL": "u"}))
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
    (problem,) = check.look_at(_job(2, override)).problems
    assert problem.startswith(start)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ({"id": 2**53, "text": "12345678901234567890", "url": "https://e.com/#top"}, []),
        (
            {"a": {"id": [2**53 + 1, 10**30]}},
            ["a.id holds a whole number beyond 2^53, which JavaScript and others round; write it as a text"],
        ),
        ({"url": "https://e.com/#N/A"}, ["url holds an error of a spreadsheet, like #N/A; mend the cell"]),
        (
            {"ean": "1.23457E+15"},
            ["ean holds a number that a spreadsheet has shortened, like 1.23457E+15; format its column as text"],
        ),
        (
            {"url": "https://e.com/p/1.23457E+15?a=b"},
            ["url holds a number that a spreadsheet has shortened, like 1.23457E+15; format its column as text"],
        ),
        ({"formula": "it is 1.2E+15"}, []),
    ],
)
def test_a_plan_shows_values_that_may_not_be_meant(override: dict[str, Any], found: list[str]) -> None:
    """Numbers that others round, and what a spreadsheet has lost, by property."""
    counts = JobFileCounts(_check(known=Build(asked="latest", why_unchecked="so")), {})
    counts.look_at(_job(7, override))
    assert list(map(str, counts.odd)) == [f"line 7: {message}" for message in found]


def test_two_inputs_that_differ_in_the_last_of_many_digits_are_two() -> None:
    """No digit is lost on the way to the comparison."""
    check = _check(known=Build(asked="latest", schema=InputSchema({"properties": {"id": {"type": "integer"}}})))
    assert check.look_at(_job(1, {"id": 5})) == ([], [])
    for line, last in ((2, 7), (3, 8)):
        body = b'{"id":1844674407370955161%d}' % last
        job = replace(_job(line, {}), body=body)
        assert check.look_at(job) == ([], [])
        assert check.shown(job) == body.decode()
