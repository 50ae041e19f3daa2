"""What `plan` counts in a job file: jobs, groups, duplicates, problems, erased fields."""

from dataclasses import replace
from typing import Any

import pytest

from batchrun.preflight.builds import Build
from batchrun.preflight.input_schema import InputSchema
from batchrun.preflight.job_file_counts import MAX_GROUPS, REPEATED_KEY, JobFileCounts
from tests.support.job_checks import check_of, job_with, unread_line


def test_only_so_many_groups_and_inputs(monkeypatch):
    """The jobs of further groups are counted together; inputs are kept until they are large."""
    monkeypatch.setattr("batchrun.preflight.shown_inputs.MAX_INPUT_CHARS", 1_000)
    counts = JobFileCounts(check_of({"mode": "a"}), {}, shown=100)
    for n in range(MAX_GROUPS + 5):
        counts.look_at(job_with(n, {"maxPages": n, "mode": "a" * 400}, group=f"group {n}"))
    counts.look_at(job_with(MAX_GROUPS + 5, {"maxPages": 0, "mode": "b"}, group="group 0"))
    assert (len(counts.groups), counts.groups["group 0"], counts.in_other_groups) == (MAX_GROUPS, 2, 5)
    assert len(counts.inputs.kept) == 3


def test_the_lines_of_a_job_file_are_counted():
    """Jobs by group, repeated lines, bad lines, the largest input, memory, what would be refused."""
    counts = JobFileCounts(check_of({"mode": "a"}), {})
    for entry in (
        job_with(1, {"maxPages": 1}, group="uk"),
        unread_line(2, "is not JSON"),
        job_with(3, {"maxPages": 0}, group="uk"),
        job_with(4, {"maxPages": 1}, group="de"),
        job_with(5, {"maxPages": 5}, key="k", memory_mb=2048),
        job_with(6, {"maxPages": 6}, key="k"),
        job_with(7, {"maxPages": 5}, key="k", memory_mb=2048),
        job_with(8, {"maxPages": 0}),
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
    counts = JobFileCounts(check_of(known=Build(asked="latest", why_unchecked="so")), {})
    first, mending = (
        job_with(1, {"n": 1}),
        replace(job_with(2, {"n": 2}), key=job_with(1, {"n": 1}).key, replaces=True),
    )
    for job in (first, mending, replace(first, position=job_with(3, {}).position)):
        counts.look_at(job)
    assert (counts.jobs, counts.duplicates, counts.bad_lines) == (1, 1, 1)


def test_erased_fields_are_told():
    """An object that replaces one of the task whole erases what it does not name, however deep."""
    task_input = {"proxy": {"useApifyProxy": True, "groups": ["A"], "deep": {"a": 1}}, "mode": "a", "list": [1]}
    counts = JobFileCounts(check_of(task_input), task_input)
    overrides: list[dict[str, Any]] = [
        {"proxy": {"useApifyProxy": False, "deep": {"a": 2}}},
        {"proxy": {"useApifyProxy": False, "groups": [], "deep": {}}},
        {"proxy": {"useApifyProxy": False, "groups": [], "deep": {"a": 3, "b": 4}}},
        {"list": [], "mode": "b"},
    ]
    for line, override in enumerate(overrides, 1):
        counts.look_at(job_with(line, override))
    assert counts.erased == {"proxy": 2}
    assert counts.erased_fields == {"proxy": {"groups"}}


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
    counts = JobFileCounts(check_of(known=Build(asked="latest", why_unchecked="so")), {})
    counts.look_at(job_with(7, override))
    assert list(map(str, counts.odd)) == [f"line 7: {message}" for message in found]


@pytest.mark.parametrize(
    ("key", "group", "settings"),
    [("sk-1234", "eu", ["key"]), ("k", "shop sk-1234", ["group"]), ("k", "eu", []), ("sk", None, [])],
)
def test_a_plan_warns_of_keys_and_groups_that_are_secrets(key: str, group: str | None, settings: list[str]) -> None:
    """Else a column of passwords that was taken for the key would stand in each report."""
    schema = InputSchema({"properties": {"apiKey": {"type": "string", "isSecret": True}}})
    counts = JobFileCounts(check_of(known=Build(asked="latest", schema=schema)), {})
    counts.look_at(job_with(7, {"apiKey": "sk-1234"}, key=key, group=group))
    assert [text.rpartition(" ")[2] for text in map(str, counts.odd)] == [f"jobs.{name}" for name in settings]
