"""From a row to its jobs: @ fields, keys, constants, matrix, merge, priority."""

import tracemalloc
from collections.abc import Callable
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import BatchrunError, ConfigError
from batchrun.jobs import JobFile, JobFormat, ReadPoint
from batchrun.jobs.matrix import check_matrix
from batchrun.jobs.merge import deep_merge, lost_fields
from batchrun.model import BadLine, Job, RunOptions, write_json

Open = Callable[..., JobFile]
IS_NO_FIELD = (
    "is not one of the fields @key, @options, @priority, @replaces, @group, @meta; a property of the input must not "
    "begin with '@'"
)


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def opened(*lines: Any, **settings: Any) -> JobFile:
        path = tmp_path / "jobs.jsonl"
        path.write_bytes(b"".join(write_json(line) + b"\n" for line in lines))
        return JobFile(JobFormat(path=path, **settings))

    return opened


def made(file: JobFile) -> list[Job]:
    with file:
        return [one for one in file.read() if isinstance(one, Job)]


def reasons(file: JobFile) -> list[str]:
    with file:
        return [one.reason for one in file.read() if isinstance(one, BadLine)]


def test_at_fields_are_taken_out(opened: Open) -> None:
    """The other properties are posted, in the order given."""
    options = {
        "build": "beta",
        "timeout_s": 0,
        "memory_mb": 32768,
        "max_items": 1,
        "max_total_charge_usd": 1,
        "restart_on_error": False,
        "webhooks": [{"requestUrl": "https://example.com", "eventTypes": ["ACTOR.RUN.SUCCEEDED"]}],
    }
    line = {"z": 1, "@key": "k 1", "@options": options, "@priority": -3, "@group": "g", "@meta": {"m": [None]}, "a": 2}
    (job,) = made(opened(line))
    assert (job.key, job.body, job.priority, job.group, job.meta) == ("k 1", b'{"z":1,"a":2}', -3, "g", {"m": [None]})
    assert job.options == RunOptions(**{**options, "webhooks": tuple(options["webhooks"])})  # type: ignore[arg-type]
    content = b'{"a":2,"z":1}\n' + orjson.dumps(options, option=orjson.OPT_SORT_KEYS)
    assert job.digest == sha256(content).digest()[:16]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("@foo", 1, f"'@foo' {IS_NO_FIELD}"),
        ("@", 1, f"'@' {IS_NO_FIELD}"),
        ("@key", 5, "the key must be a string, not 5"),
        ("@key", None, "the key must be a string, not null"),
        ("@key", "", "the key is empty; give each line its own, or leave it out to derive it from the content"),
        ("@key", "x" * 513, "the key has 513 characters; at most 512 are allowed"),
        ("@key", "a\nb", "the key has a control character or a line end as its character 2; leave it out"),
        ("@group", ["g"], "the group must be a string of at most 512 characters without line ends, not a list"),
        ("@priority", True, "@priority must be a whole number within ±1,000,000,000, not true"),
        ("@priority", 1.0, "@priority must be a whole number within ±1,000,000,000, not 1.0"),
        ("@priority", 10**10, "@priority must be a whole number within ±1,000,000,000, not 10000000000"),
        ("@options", [], '@options must be an object like {"memory_mb": 1024}, not an empty list'),
        (
            "@options",
            {"memory": 1},
            (
                "@options has no option 'memory'; its options are build, timeout_s, memory_mb, max_items, "
                "max_total_charge_usd, restart_on_error, webhooks"
            ),
        ),
        ("@options", {"memory_mb": 1000}, "@options.memory_mb must be a power of two from 128 to 32768, not 1000"),
        ("@options", {"memory_mb": 64}, "@options.memory_mb must be a power of two from 128 to 32768, not 64"),
        ("@options", {"memory_mb": 128.0}, "@options.memory_mb must be a power of two from 128 to 32768, not 128.0"),
        ("@options", {"timeout_s": -1}, "@options.timeout_s must be a whole number of seconds from 0, not -1"),
        ("@options", {"timeout_s": True}, "@options.timeout_s must be a whole number of seconds from 0, not true"),
        ("@options", {"max_items": 0}, "@options.max_items must be a whole number from 1, not 0"),
        ("@options", {"max_total_charge_usd": 0}, "@options.max_total_charge_usd must be a number above 0, not 0"),
        ("@options", {"restart_on_error": 1}, "@options.restart_on_error must be true or false, not 1"),
        ("@options", {"build": ""}, '@options.build must be a build\'s tag or number like "latest", not ""'),
        ("@replaces", 1, "@replaces must be true or false, not 1"),
        ("@replaces", "true", '@replaces must be true or false, not "true"'),
        (
            "@options",
            {"webhooks": ["x"]},
            "@options.webhooks must be a list of objects in the API's own spelling; number 1 is text of length 1",
        ),
        (
            "@options",
            {"webhooks": [{"requestUrl": "https://example.com"}, {}]},
            "@options.webhooks must be a list of objects in the API's own spelling; number 2 is an empty object",
        ),
    ],
)
def test_an_unfit_field_is_a_bad_line(opened: Open, field: str, value: Any, reason: str) -> None:
    """The reason names the field, what it must be, and what it is."""
    assert reasons(opened({"a": 1, field: value})) == [reason]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("@key", {"apiKey": "sk-1"}),
        ("@key", "sk-1\nsk-1"),
        ("@group", ["sk-1"]),
        ("@group", "sk-1\nsk-1"),
        ("@priority", "sk-1-live"),
        ("@replaces", "sk-1-live"),
        ("@options", "sk-1-live"),
        ("@options", {"memory_mb": "sk-1-live"}),
        ("@options", {"webhooks": {"requestUrl": "https://example.com/x?token=sk-1"}}),
        ("@options", {"webhooks": "sk-1"}),
        ("@options", {"webhooks": [{"requestUrl": "https://example.com/x?token=sk-1"}, ["sk-1"]]}),
    ],
)
def test_an_unfit_field_that_may_be_a_secret_is_not_quoted(opened: Open, field: str, value: Any) -> None:
    """A cell may be that of the next column, and webhooks hold keys: the message goes to logs and notifications."""
    (reason,) = reasons(opened({"a": 1, field: value}))
    assert "sk-1" not in reason


def test_a_derived_key_depends_on_the_content(opened: Open) -> None:
    """The order of properties does not matter; options and constants are content, group and meta are not."""
    lines = [
        {"a": 1, "b": {"x": 1, "y": 2}},
        {"b": {"y": 2, "x": 1}, "a": 1, "@group": "g", "@meta": 1, "@priority": 0, "@options": {}},
        {"a": 1, "b": {"x": 1, "y": 2}, "@options": {"timeout_s": 60}},
        {"a": 1},
    ]
    first, second, third, fourth = made(opened(*lines, constants={"b": {"x": 1, "y": 2}}))
    assert first.key == first.digest.hex() == sha256(b'{"a":1,"b":{"x":1,"y":2}}').hexdigest()[:32]
    assert second.key == fourth.key == first.key
    assert third.key != first.key


def test_key_group_and_meta_come_from_columns(opened: Open) -> None:
    """The line's own @ fields win over the configuration's templates."""
    settings = {"key": "p/{{sku}}", "group": "{{country?}}", "meta": ("sku",)}
    jobs = made(
        opened(
            {"sku": 7, "country": "cz"},
            {"sku": 8, "country": "", "@meta": {"x": 1}},
            {"sku": 9, "country": "de", "@key": "own", "@group": "mine"},
            **settings,
        )
    )
    assert [(job.key, job.group, job.meta) for job in jobs] == [
        ("p/7", "cz", {"sku": 7}),
        ("p/8", None, {"sku": 8, "x": 1}),
        ("own", "mine", {"sku": 9}),
    ]
    assert reasons(opened({"a": 1}, {"sku": 1, "@meta": 5}, {"sku": "\n"}, **settings)) == [
        "has no property 'sku', which jobs.key uses",
        "@meta must be an object where jobs.meta is set: it receives the columns too",
        "the key has a control character or a line end as its character 3; leave it out",
    ]
    assert reasons(opened({"a": 1}, meta=("sku",))) == ["has no property 'sku', which jobs.meta copies"]


def test_a_key_template_may_leave_the_key_to_the_content(opened: Open) -> None:
    """An empty optional placeholder gives no key; without ? an empty key is a bad line."""
    (job,) = made(opened({"sku": ""}, key="{{sku?}}"))
    assert job.key == job.digest.hex()
    assert "the key is empty" in reasons(opened({"sku": ""}, key="{{sku}}"))[0]


def test_a_template_may_have_at_fields(opened: Open) -> None:
    """They win over the line's; the row's other properties are columns only."""
    template = {"n": "{{n:int}}", "@options": {"memory_mb": "{{mem:int?}}"}, "@priority": "{{n:int}}"}
    jobs = made(opened({"n": "1", "mem": "256", "@options": {"build": "b"}}, {"n": 2}, template=template))
    assert [(job.body, job.options, job.priority) for job in jobs] == [
        (b'{"n":2}', None, 2),
        (b'{"n":1}', RunOptions(build="b", memory_mb=256), 1),
    ]


def test_constants_lie_under_every_override(opened: Open) -> None:
    """An override's own top-level property wins whole; dates are strings in JSON."""
    jobs = made(opened({"b": {"y": 1}}, {}, constants={"a": date(2024, 5, 1), "b": {"x": 1}}))
    assert [job.body for job in jobs] == [b'{"a":"2024-05-01","b":{"y":1}}', b'{"a":"2024-05-01","b":{"x":1}}']


def test_a_matrix_multiplies_no_large_line(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """All jobs of a line are in memory together; the next line is read."""
    monkeypatch.setattr("batchrun.jobs.job_builder.MAX_INPUTS_BYTES", 5_000)
    lines = {"x": "x" * 1000}, {"x": "short"}, {"x": "short", "@meta": "m" * 1000}
    file = opened(*lines, matrix={"n": [1, 2, 3, 4, 5]})
    with file:
        found = list(file.read())
    assert [type(each) for each in found] == [BadLine] + [Job] * 5 + [BadLine]
    assert isinstance(found[0], BadLine)
    assert "gives jobs.matrix more than" in found[0].reason


def test_a_matrix_copies_no_line_of_many_properties(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template may leave all of them out, so that the inputs are small."""
    monkeypatch.setattr("batchrun.jobs.job_builder.MAX_INPUTS_BYTES", 20_000)
    lines = {str(n): 0 for n in range(1000)}, {"0": 0}
    with opened(*lines, matrix={"n": [1, 2, 3, 4, 5]}, template={"n": "{{n}}"}) as file:
        found = list(file.read())
    assert [type(each) for each in found] == [BadLine] + [Job] * 5


def test_a_long_value_of_a_matrix_is_in_memory_once(opened: Open) -> None:
    """In the keys of 90,000 combinations it would be 18 GB; no line with a key may have such a matrix."""
    matrix = {"a": ["x" * 20_000], "b": [*range(100)], "c": [*range(10)]}
    tracemalloc.start()
    file = opened({"z": 1}, {"z": 2, "@key": "k"}, matrix=matrix, template={"z": "{{z}}", "b": "{{b}}", "c": "{{c}}"})
    with file:
        found = list(file.read())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(each) for each in found] == [Job] * 1000 + [BadLine]
    assert "to which jobs.matrix adds values of more than 512 characters" in str(found[-1])
    assert peak < 10 << 20


def test_a_matrix_of_many_lists_is_refused() -> None:
    """Each combination has a value of every list."""
    lists: dict[str, list[int]] = {f"a{n}": [0] for n in range(100)}
    with pytest.raises(ConfigError, match=r"makes 40,000 jobs of each line with 102 values each"):
        check_matrix({**lists, "b": [*range(200)], "c": [*range(200)]})


def test_a_matrix_makes_every_combination(opened: Open) -> None:
    """Without a template its names are properties; to a given key the combination is added."""
    matrix = {"country": ["cz", "de"], "n": [1, None]}
    jobs = made(opened({"a": 1, "@key": "k"}, matrix=matrix))
    assert [(job.key, job.position.variant, job.body) for job in jobs] == [
        ("k/country=cz,n=1", 0, b'{"a":1,"country":"cz","n":1}'),
        ("k/country=cz,n=", 1, b'{"a":1,"country":"cz","n":null}'),
        ("k/country=de,n=1", 2, b'{"a":1,"country":"de","n":1}'),
        ("k/country=de,n=", 3, b'{"a":1,"country":"de","n":null}'),
    ]
    templated = made(opened({"u": "x"}, matrix=matrix, template={"c": "{{u}}-{{country}}"}, key="{{country}}{{n}}"))
    assert [(job.key, job.body) for job in templated] == [
        ("cz1", b'{"c":"x-cz"}'),
        ("cz", b'{"c":"x-cz"}'),
        ("de1", b'{"c":"x-de"}'),
        ("de", b'{"c":"x-de"}'),
    ]
    assert reasons(opened({"n": 1}, matrix=matrix)) == ["has a property 'n', which jobs.matrix sets too; rename one"]


def test_a_line_counts_as_read_once_its_last_combination_was_yielded(opened: Open) -> None:
    """The read point is never past a job that was not yielded."""
    with opened({"a": 1}, {"a": 2}, matrix={"n": [1, 2]}) as file:
        assert [(job.position.variant, file.read_point.line) for job in file.read()] == [(0, 0), (1, 1), (0, 1), (1, 2)]
        assert file.count_estimate() == 4
        positions = [job.position for job in file.read()]
        assert [job.position for job in file.reread(positions[1:3])] == positions[1:3]


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"matrix": {"n": []}}, "jobs.matrix.n: must be a list with at least one value"),
        ({"matrix": {"n": "ab"}}, "jobs.matrix.n: must be a list with at least one value"),
        (
            {"matrix": {"@key": ["a"]}},
            ("jobs.matrix.@key: use it through a template, like \"@options\" = { memory_mb = '{{memory_mb:int}}' }"),
        ),
        (
            {"matrix": {"n": list(range(1000)), "m": list(range(101))}},
            "jobs.matrix: makes 101,000 jobs of each line; at most 100,000 are allowed",
        ),
        (
            {"matrix": {"n": [1, 2]}, "key": "{{a}}"},
            "jobs.key: must contain {{n}}, or all jobs that jobs.matrix makes of a line get one key",
        ),
        ({"constants": {"a": {"b": float("nan")}}}, "input.a.b: must be finite: JSON has no infinity and no NaN"),
        ({"constants": {"@key": "a"}}, "input.@key: must not begin with '@': lines and jobs.template have @ fields"),
        ({"template": {"@foo": 1}}, f"jobs.template.@foo: '@foo' {IS_NO_FIELD}"),
        ({"merge": "deep"}, 'jobs.merge: "deep" needs the input of the task, which is unknown'),
        ({"key": "{{"}, "jobs.key: '{{' is never closed with '}}'; two literal braces are written '{{{{'"),
    ],
)
def test_an_unusable_configuration_is_refused_at_once(opened: Open, given_settings: Any, message: str) -> None:
    """The error names the dotted key, before any line is read."""
    with pytest.raises(BatchrunError) as caught:
        opened({}, **given_settings)
    assert str(caught.value) == message


def test_a_deep_merge_happens_before_the_post(opened: Open) -> None:
    """Objects are merged at every level, arrays replaced whole; the key is that of the override alone."""
    line = {"p": {"x": {"b": 2}, "l": [3]}, "q": 5}
    task_input = {"p": {"x": {"a": 1, "b": 1}, "l": [1, 2]}, "q": {"z": 1}, "r": 0}
    (deep,) = made(opened(line, merge="deep", task_input=task_input))
    (shallow,) = made(opened(line, task_input=task_input))
    assert orjson.loads(deep.body) == {"p": {"x": {"a": 1, "b": 2}, "l": [3]}, "q": 5, "r": 0}
    assert orjson.loads(shallow.body) == line
    assert deep.key == shallow.key
    assert task_input == {"p": {"x": {"a": 1, "b": 1}, "l": [1, 2]}, "q": {"z": 1}, "r": 0}


objects = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2), lambda inner: st.dictionaries(st.sampled_from("abc"), inner)
)
inputs = st.dictionaries(st.sampled_from("abc"), objects)


@given(inputs, inputs)
def test_nothing_is_lost_where_both_merges_agree(task_input: Any, override: Any) -> None:
    """A property is reported exactly if merging objects would keep more than replacing it does."""
    kept = deep_merge(task_input, override)
    lost = [
        name
        for name in override
        if isinstance(override[name], dict) and isinstance(task_input.get(name), dict) and kept[name] != override[name]
    ]
    assert lost_fields(task_input, override) == lost


def test_higher_priorities_go_first_within_the_look_ahead(opened: Open) -> None:
    """Equal priorities keep the order of the file; all jobs before the read point were yielded."""
    lines = [{"n": n, "@priority": priority} for n, priority in enumerate([0, 5, 0, 9, 5])]
    with opened(*lines, look_ahead=3) as file:
        seen = [(orjson.loads(job.body)["n"], file.read_point.line) for job in file.read() if isinstance(job, Job)]
    assert seen == [(1, 0), (0, 2), (3, 2), (4, 2), (2, 5)]


def test_a_low_priority_waits_no_longer_than_the_look_ahead(opened: Open) -> None:
    """Otherwise one job could wait for the end of a file of any size."""
    lines = [{"n": 0, "@priority": -1}, *({"n": n} for n in range(1, 100))]
    order = [orjson.loads(job.body)["n"] for job in made(opened(*lines, look_ahead=10))]
    assert order.index(0) == 9


def test_priorities_in_the_head_are_noticed(opened: Open) -> None:
    """The look-ahead needs no setting, except for a pipe, where it would wait for the writer."""
    assert [job.priority for job in made(opened({"@priority": 1}, [], {"@priority": 2}))] == [2, 1]


@given(st.lists(st.integers(-2, 2) | st.none(), max_size=12), st.integers(1, 6), st.booleans())
def test_no_read_point_loses_a_job(opened: Open, priorities: list[int | None], look_ahead: int, packed: bool) -> None:
    """Reading from any read point yields every job that was not yielded before it, whatever the priorities."""
    lines = [[n] if priority is None else {"n": n, "@priority": priority} for n, priority in enumerate(priorities)]
    matrix = {"m": [1, 2]} if packed else {}
    with opened(*lines, look_ahead=look_ahead, matrix=matrix) as file:
        everything = {(one.position.line, one.position.variant) for one in file.read()}
        expected = sum(1 if priority is None else 1 + packed for priority in priorities)
        points: list[tuple[ReadPoint, int]] = []
        order = []
        for one in file.read():
            order.append((one.position.line, one.position.variant))
            points.append((file.read_point, len(order)))
        assert sorted(order) == sorted(everything)
        assert len(order) == expected
        for point, count in points:
            rest = {(one.position.line, one.position.variant) for one in file.read(point)}
            assert everything - set(order[:count]) <= rest


def test_numbers_keep_all_their_digits(opened: Open) -> None:
    """In keys, bodies, constants, keys of columns and texts."""
    lines = [{"id": 2**64 + 1}, {"id": 2**64 + 2}]
    first, second = made(opened(*lines, constants={"n": 2**70}))
    assert first.key != second.key
    assert first.body == b'{"n":1180591620717411303424,"id":18446744073709551617}'
    job, _ = made(opened(*lines, key="{{id}}", template={"t": "n{{id}}", "@meta": {"id": "{{id}}"}}))
    assert (job.key, job.body, job.meta) == (
        "18446744073709551617", b'{"t":"n18446744073709551617"}', {"id": 18446744073709551617},
    )  # fmt: skip


def test_cells_may_be_declared_empty(opened: Open) -> None:
    """What a program writes for no value drops an optional property."""
    lines = [{"n": cell} for cell in ("", "5.0", "NA", "NaN", "None", 5)]
    jobs = made(opened(*lines, template={"n": "{{n:int?}}"}, empty=frozenset({"NA", "NaN", "None"})))
    assert [job.body for job in jobs] == [b"{}", b'{"n":5}', b"{}", b"{}", b"{}", b'{"n":5}']
