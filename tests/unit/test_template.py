"""Templates turn rows into overrides."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import ConfigError
from batchrun.jobs import template as template_module
from batchrun.jobs.rows import NotAJob
from batchrun.jobs.template import DROPPED, Template


def fill(tree: Any, **cells: Any) -> Any:
    return Template(tree, "jobs.template").fill(cells)


def why_not(tree: Any, **cells: Any) -> str:
    with pytest.raises(NotAJob) as caught:
        fill(tree, **cells)
    return str(caught.value)


def test_a_tree_is_filled_in_its_own_order() -> None:
    """Strings at any depth are filled; all else is left as it is."""
    tree = {"z": [{"url": "https://{{host}}/{{page}}"}], "n": 3, "ok": True, "none": None, "a": "{{page}}"}
    filled = fill(tree, host="example.com", page="x")
    assert list(filled.items()) == [
        ("z", [{"url": "https://example.com/x"}]),
        ("n", 3),
        ("ok", True),
        ("none", None),
        ("a", "x"),
    ]


@pytest.mark.parametrize(
    ("text", "cell", "value"),
    [
        ("{{x}}", "007", "007"),
        ("{{ x }}", "", ""),
        ("{{x:int}}", " 42 ", 42),
        ("{{x:int}}", "-7", -7),
        ("{{x:int}}", "18446744073709551615", 2**64 - 1),
        ("{{x : int}}", 3.0, 3),
        ("{{x:float}}", "1e3", 1000.0),
        ("{{x:float}}", ".5", 0.5),
        ("{{x:float}}", 2, 2.0),
        ("{{x:bool}}", "TRUE", True),
        ("{{x:bool}}", "0", False),
        ("{{x:bool}}", 1, True),
        ("{{x:json}}", '{"a": [1, null]}', {"a": [1, None]}),
        ("{{x:json}}", [1], [1]),
        ("{{x:split(|)}}", "a | b||c", ["a", "b", "", "c"]),
        ("{{x:split(, )}}", "a, b,c", ["a", "b,c"]),
        ("{{x:split())}}", "a)b", ["a", "b"]),
        ("{{x:split(|)}}", "", []),
        ("{{x}}", {"deep": [1]}, {"deep": [1]}),
        ("{{x}}", None, None),
        ("n={{x}}!", 5, "n=5!"),
        ("n={{x}}", None, "n="),
        ("n={{x}}", True, "n=true"),
        ("n={{x}}", 5.0, "n=5"),
        ("n={{x}}", -0.5, "n=-0.5"),
        ("n={{x}}", 1e21, "n=1e+21"),
        ("n={{x}}", 12345678901234567890123, "n=12345678901234567890123"),
        ("{{x:int}}", "5.0", 5),
        ("{{x:int}}", 5.0, 5),
        (
            "https://x/?q={{x:url}}",
            "AT&T: rock + roll / düsseldorf",
            "https://x/?q=AT%26T%3A%20rock%20%2B%20roll%20%2F%20d%C3%BCsseldorf",
        ),
        ("{{x:trim:upper}}", " ab ", "AB"),
        ("{{x:lower}}", "ÄB", "äb"),
        ("{{x:default(7):int}}", "", 7),
        ("{{x:default()}}", None, ""),
        ("{{x:default(a:b)}}", None, "a:b"),
        ("{{x:default(7)}}", 0, 0),
        ("{{x:prefix(https://)}}", "a.example", "https://a.example"),
        ("{{x:trim:prefix(https://):list:objects(url)?}}", " a.example", [{"url": "https://a.example"}]),
        ("{{x:date(%d.%m.%Y %H:%M)}}", "2026-03-31T23:59:00Z", "31.03.2026 23:59"),
        ("{{x:list}}", "a|b", ["a|b"]),
        ("{{x:list}}", "", []),
        ("{{x:list:objects(url)}}", "a", [{"url": "a"}]),
        ("{{x:split(|):objects(url)}}", "a|b", [{"url": "a"}, {"url": "b"}]),
        ("{{x:objects(url)}}", ["a", {"url": "b"}], [{"url": "a"}, {"url": "b"}]),
        ("{{ x : date(%j) : int }}", "2026-01-31", 31),
        ("{{x:int}}{{x}}", "05", "505"),
        ("{{{{x}} {y} }}", "unused", "{{x}} {y} }}"),
        ("{{{{{{x}}", "v", "{{v"),
    ],
)
def test_a_cell_is_converted(text: str, cell: Any, value: Any) -> None:
    """One placeholder gives the converted value with its type; in a text it gives text."""
    filled = fill({"v": text}, x=cell)
    assert (filled, type(filled["v"])) == ({"v": value}, type(value))


@pytest.mark.parametrize(
    ("text", "cell", "reason"),
    [
        ("{{x:int}}", "1.5", "column 'x' is \"1.5\" and jobs.template.v expects a whole number"),
        ("{{x:int}}", "1_000", "column 'x' is \"1_000\" and jobs.template.v expects a whole number"),
        ("{{x:int}}", "٣", "column 'x' is \"٣\" and jobs.template.v expects a whole number"),
        ("{{x:int}}", True, "column 'x' is true and jobs.template.v expects a whole number"),
        ("{{x:float}}", "nan", "column 'x' is \"nan\" and jobs.template.v expects a number"),
        ("{{x:float}}", "1e999", "column 'x' is \"1e999\" and jobs.template.v expects a number"),
        ("{{x:float}}", [], "column 'x' is an empty list and jobs.template.v expects a number"),
        ("{{x:float}}", 10**400, "column 'x' is 1" + "0" * 78 + "… and jobs.template.v expects a number"),
        ("{{x:objects(url)}}", "a", "column 'x' is text of length 1 and jobs.template.v expects a list"),
        ("{{x:bool}}", "maybe", "column 'x' is \"maybe\" and jobs.template.v expects true or false"),
        ("{{x:json}}", "{'cookie': 1}", "column 'x' is text of length 13 and jobs.template.v expects JSON"),
        (
            "{{x:date(%Y)}}",
            "1.3.26",
            "column 'x' is \"1.3.26\" and jobs.template.v expects a date like 2026-03-31",
        ),
        ("{{x:split(|)}}", 5, "column 'x' is a number and jobs.template.v expects text to split"),
        (
            "{{x:int}}",
            "",
            ("column 'x' is empty and jobs.template.v expects a whole number; a trailing ? leaves it out when empty"),
        ),
    ],
)
def test_a_cell_that_does_not_fit_is_named(text: str, cell: Any, reason: str) -> None:
    """A failed conversion names the column, its value, and what is expected."""
    assert why_not({"v": text}, x=cell) == reason


@pytest.mark.parametrize(
    ("name", "column", "cell"),
    [
        ("cookies", "login", "4711"),
        ("pages", "password", "4711"),
        ("pages", "depth", "SECRET:PW"),
        ("v", "n", "4" * 19),
    ],
)
def test_a_cell_that_may_be_a_secret_is_not_quoted(name: str, column: str, cell: str) -> None:
    """By its name, or as it is no number at all: a row that lacks a column has the next one's cell there."""
    reason = why_not({name: [f"{{{{{column}:bool}}}}"]}, **{column: cell})
    assert (f"is text of length {len(cell)} and" in reason, cell in reason) == (True, False)


def test_a_huge_number_is_exact_or_refused() -> None:
    """A whole number keeps all its digits, up to those that no consumer reads."""
    assert fill({"v": "{{x:int}}", "t": "n{{x:int}}"}, x="18446744073709551617") == {
        "v": 18446744073709551617, "t": "n18446744073709551617",
    }  # fmt: skip
    assert "expects a whole number" in why_not({"v": "{{x:int}}"}, x="9" * 5000)


@pytest.mark.parametrize("empty", [{"x": ""}, {"x": None}, {}])
def test_an_empty_optional_cell_drops_what_it_fills(empty: dict[str, Any]) -> None:
    """The property or list element is left out, or the text that contains the cell; the object around it is kept."""
    tree = {"a": "{{x:int?}}", "b": ["{{x?}}", 1], "c": "at {{x?}}", "d": {"e": "{{x:split(|)?}}"}}
    assert fill(tree, **empty) == {"b": [1], "d": {}}
    assert Template("{{x?}}", "jobs.key").fill(empty) is DROPPED


def test_an_optional_cell_is_dropped_where_filters_leave_nothing() -> None:
    """A cell of blanks is empty once it is trimmed; a default fills it before."""
    assert fill({"a": "{{x:trim?}}", "b": "{{x:trim:default(1)?}}"}, x="  ") == {"b": "1"}
    assert fill({"a": "{{x:default(1)?}}"}) == {"a": "1"}


def test_an_object_is_read_by_dots() -> None:
    """A property of that whole name comes first."""
    assert fill({"v": "{{a.b.c:int}}", "w": "{{d.e}}"}, a={"b": {"c": "3"}}, **{"d.e": 4}) == {"v": 3, "w": 4}
    assert why_not({"v": "{{a.b}}"}, a={"c": 1}) == "has no property 'a.b', which jobs.template.v uses"
    assert why_not({"v": "{{a.b}}"}, a=[1]) == "has no property 'a.b', which jobs.template.v uses"
    assert fill({"v": "{{a.b?}}"}, a=1) == {}


def test_empty_cells_in_texts_are_counted() -> None:
    """By the key of the text; a value that is empty as a whole is none."""
    template = Template({"url": "https://{{a}}/{{b}}", "b": "{{b}}"}, "t")
    for b in ("x", "", None):
        template.fill({"a": "h", "b": b})
    assert template.empty_in_text == {"t.url": 2}


def test_a_missing_property_is_named() -> None:
    """A JSON line without the property is no job."""
    assert why_not({"v": ["{{x}}"]}, y=1) == "has no property 'x', which jobs.template.v.0 uses"


def test_a_column_with_an_odd_name_is_quoted() -> None:
    """Inside quotes a colon begins no converter."""
    template = Template({"a": '{{"dc:title"}}', "b": '{{ "why?":int? }}', "c": "{{two words:int}}"}, "t")
    assert template.fill({"dc:title": "T", "why?": "", "two words": "2"}) == {"a": "T", "c": 2}
    assert template.columns == {"dc:title": "t.a", "why?": "t.b", "two words": "t.c"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{x", "'{{' is never closed with '}}'; two literal braces are written '{{{{'"),
        ("{{}}", "'{{}}' is no placeholder; write it like {{column}} or {{column:int?}}"),
        ("{{?}}", "'{{?}}' is no placeholder; write it like {{column}} or {{column:int?}}"),
        ("{{x:}}", "'{{x:}}' is no placeholder; write it like {{column}} or {{column:int?}}"),
        ("{{{x}}}", "'{{{x}}' is no placeholder; write it like {{column}} or {{column:int?}}"),
        ("{{x:split}}", "split names nothing in parentheses; write it like {{tags:split(|)}}"),
        ("{{x:split()}}", "split names nothing in parentheses; write it like {{tags:split(|)}}"),
        (
            "{{x:int(3)}}",
            "the filter 'int' takes nothing in parentheses; only split, objects, prefix, default, date do",
        ),
        (
            "{{x:datum}}",
            (
                "there is no filter 'datum', only int, float, bool, json, url, list, trim, upper, lower, split(…), "
                "objects(…), prefix(…), default(…), date(…); a column with ':' in its name is quoted: {{\"a:b\"}}"
            ),
        ),
    ],
)
def test_a_malformed_placeholder_is_refused_at_once(text: str, problem: str) -> None:
    """The error names the dotted key and how to write it."""
    with pytest.raises(ConfigError) as caught:
        Template({"a": [{"b": text}]}, "jobs.template")
    assert (caught.value.key, caught.value.problem) == ("jobs.template.a.0.b", problem)


@given(st.text())
def test_any_text_compiles_or_is_a_config_error(text: str) -> None:
    """No text gives another error, and text without braces is left as it is."""
    try:
        filled = Template({"v": text}, "t").fill({})
    except (ConfigError, NotAJob):
        assert "{{" in text
    else:
        assert "{{" in text or filled == {"v": text}


@given(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_converters_undo_writing(whole: int, real: float, truth: bool) -> None:
    """A value written into a cell comes back unchanged."""
    tree = {"a": "{{a:int}}", "b": "{{b:float}}", "c": "{{c:bool}}"}
    assert fill(tree, a=str(whole), b=repr(real), c=str(truth)) == {"a": whole, "b": real, "c": truth}


@pytest.mark.parametrize("cell", ["x" * 10_000, ["x" * 5_000] * 2, {"x" * 5_000: "y" * 5_000}, [[]] * 5_000])
@pytest.mark.parametrize("tree", ["{{x}}" * 200, {str(n): "{{x}}" for n in range(200)}], ids=["a text", "properties"])
def test_a_long_cell_that_stands_in_many_placeholders_is_refused_early(
    monkeypatch: pytest.MonkeyPatch, tree: Any, cell: Any
) -> None:
    """Filled to the end, a row of a megabyte in 20,000 placeholders would take 20 GB."""
    monkeypatch.setattr(template_module, "MAX_BODY_BYTES", 943_718)
    template = Template(tree, "jobs.template")
    with pytest.raises(NotAJob, match=r"more than the 943,718 bytes that an input may have"):
        template.fill({"x": cell})
    assert template.fill({"x": "short"}), "the next row may fill in as much"


def test_what_filters_make_of_a_cell_is_counted_too() -> None:
    """A cell of separators becomes a list of as many parts, and each part an object with a property of this name."""
    tree = ["{{x:split(|):objects(" + "n" * 100 + ")}}"]
    assert "more than" in why_not(tree, x="a|" * 99_000)


def test_a_cell_of_too_many_parts_is_not_split() -> None:
    """Each part takes 200 bytes, so 14 MB of commas would take 3 GB."""
    assert why_not("{{x:split(,)}}", x="," * 100_001) == "has a cell of 100,001 parts; 100,000 are allowed"
    assert "parts" in why_not("{{x:objects(u)}}", x=[1] * 100_001)
    assert len(fill("{{x:split(,)}}", x="a," * 1000)) == 1001


def test_a_long_placeholder_is_refused_before_it_is_read() -> None:
    """One that is not well formed takes the square of its length: a minute for 256 KB."""
    with pytest.raises(ConfigError, match=r"a placeholder of 160,002 characters; 1,000 are allowed"):
        fill("{{n:" + "trim(:trim" * 16_000 + "}}", n="1")
