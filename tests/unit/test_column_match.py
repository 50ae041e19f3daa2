"""Columns of a job file and properties of an input: which fills which, and with what placeholder."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from batchrun.cli.batch_file_text import BatchDraft, batch_file_text, toml_value
from batchrun.jobs.template import Template
from batchrun.preflight.column_match import Matching, is_usable, match_columns, placeholder
from batchrun.preflight.job_column import JobColumn

START_URLS: dict[str, Any] = {"type": "array", "editor": "requestListSources", "title": "Start URLs"}
MAX_ITEMS: dict[str, Any] = {"type": "integer", "title": "Maximum number of results", "default": 100}
COUNTRY: dict[str, Any] = {"type": "string", "enum": ["US", "DE", "FR"], "title": "Country"}
SCRAPER: dict[str, dict[str, Any]] = {
    "startUrls": START_URLS,
    "maxItems": MAX_ITEMS,
    "countryCode": COUNTRY,
    "proxy": {"type": "object"},
}


def columns(**cells: list[Any]) -> list[JobColumn]:
    """Return columns from all of their cells; _ in a name is a blank."""
    return [
        JobColumn(
            name=name.replace("_", " "),
            values=[cell for cell in values if cell not in (None, "")],
            has_empty=None in values or "" in values,
            is_unique=len(set(map(str, values))) == len(values),
        )
        for name, values in cells.items()
    ]


def test_columns_are_matched_by_name_type_and_value() -> None:
    """Each property once; what identifies a line is its key, and what fills nothing is copied."""
    found = match_columns(
        columns(
            SKU=["a", "b"], Product_Link=["https://a/1", "https://a/2"], Max_Results=["5", ""], market=["DE", "US"],
            Note=["x", "y"],
        ),
        SCRAPER,
        ["startUrls"],
    )  # fmt: skip
    assert found.template == {
        "startUrls": [{"url": "{{Product Link}}"}],
        "maxItems": "{{Max Results:int?}}",
        "countryCode": "{{market}}",
    }
    assert (found.key, found.meta, found.missing) == ("SKU", ("SKU", "Note"), ())


@pytest.mark.parametrize(
    ("cells", "fields", "template"),
    [
        ({"Adresse": ["https://a/1"]}, {"startUrls": START_URLS}, {"startUrls": [{"url": "{{Adresse}}"}]}),
        ({"shop": ["a.example", "b.example/x"]}, {"urls": {"type": "array"}}, {"urls": ["https://{{shop}}"]}),
        ({"limit": ["many"]}, {"maxItems": MAX_ITEMS}, {}),
        ({"url": ["n/a"]}, {"startUrls": START_URLS}, {}),
        ({"Land": ["DE", "US"]}, {"countryCode": COUNTRY}, {"countryCode": "{{Land}}"}),
        ({"country": ["Mars"]}, {"countryCode": COUNTRY}, {}),
        ({"keyword": ["x"]}, {"searchStringsArray": {"type": "array"}}, {"searchStringsArray": ["{{keyword}}"]}),
        ({"keyword": ["x", ""]}, {"searchTerms": {"type": "array"}}, {"searchTerms": "{{keyword:list?}}"}),
        ({"Adresse": ["https://a/1", ""]}, {"startUrls": START_URLS}, {"startUrls": "{{Adresse:list:objects(url)?}}"}),
        ({"tags": ["a|b", "c|d"]}, {"tags": {"type": "array"}}, {"tags": "{{tags:split(|)}}"}),
        ({"proxy": ['{"a": 1}']}, {"proxy": {"type": "object"}}, {"proxy": "{{proxy:json}}"}),
        ({"debug": ["yes", "no"]}, {"debug": {"type": "boolean"}}, {"debug": "{{debug:bool}}"}),
        ({"region": ["en-GB"]}, {"locale": {"type": "string", "prefill": "de-DE"}}, {}),
        ({"max_items": [5, 6]}, {"maxItems": MAX_ITEMS}, {"maxItems": "{{max items}}"}),
        ({"query": [5]}, {"query": {"type": "string"}}, {"query": "{{query:trim}}"}),
        ({"urls": [["https://a"]]}, {"urls": {"type": "array"}}, {"urls": "{{urls}}"}),
        ({"@key": ["a"], "url": ["/x"]}, {"url": {"type": "string"}}, {"url": "{{url}}"}),
        ({"keywords": ["node.js", "vue.js"]}, {"keywords": {"type": "array"}}, {"keywords": ["{{keywords}}"]}),
        ({"domains": ["a.example"]}, {"domains": {"type": "array"}}, {"domains": ["{{domains}}"]}),
        ({"site": ["a.example"]}, {"url": {"type": "string"}}, {"url": "https://{{site}}"}),
        (
            {"site": ["a.example", ""]},
            {"startUrls": START_URLS},
            {"startUrls": "{{site:prefix(https://):list:objects(url)?}}"},
        ),
        ({"site": ["a.example", ""]}, {"url": {"type": "string"}}, {"url": "https://{{site?}}"}),
        ({"domain": ["a.example"]}, {"domain": {"type": "string"}}, {"domain": "{{domain}}"}),
        (
            {"links": ["https://a|https://b"]},
            {"startUrls": START_URLS},
            {"startUrls": "{{links:split(|):objects(url)}}"},
        ),
        ({"links": [["https://a"]]}, {"startUrls": START_URLS}, {"startUrls": "{{links:objects(url)}}"}),
        ({"url": ["https://a"]}, {"startURLs": {"type": "array"}}, {"startURLs": ["{{url}}"]}),
        ({"ASINs": ["B0"]}, {"asin": {"type": "string"}}, {"asin": "{{ASINs}}"}),
        ({"IDs": ["1"]}, {"id": {"type": "string"}}, {"id": "{{IDs}}"}),
        ({"Größe": ["M"]}, {"größe": {"type": "string"}}, {"größe": "{{Größe}}"}),
        ({"Gr\u00f6ße": ["M"]}, {"gro\u0308ße": {"type": "string"}}, {"gro\u0308ße": "{{Größe}}"}),
        ({"Größe": ["M"]}, {"Gräte": {"type": "string"}}, {}),
        ({"price": ["nan"]}, {"price": {"type": "number"}}, {}),
        ({"price": ["1_000"]}, {"price": {"type": "number"}}, {}),
        ({"price": [10**400]}, {"price": {"type": "number"}}, {}),
        ({"locations": ["Berlin, Germany"]}, {"locations": {"type": "array"}}, {"locations": ["{{locations}}"]}),
        ({"tags": ["a,b", "c, d,e"]}, {"tags": {"type": "array"}}, {"tags": "{{tags:split(,)}}"}),
    ],
)
def test_what_fits_is_matched_and_what_cannot_be_converted_is_not(
    cells: dict[str, list[Any]], fields: dict[str, Any], template: dict[str, Any]
) -> None:
    """Cells of CSV are texts, properties of JSON lines have their types."""
    assert match_columns(columns(**cells), fields, []).template == template


def test_two_columns_that_fit_equally_are_rivals() -> None:
    """The first is taken, and the other is named."""
    links = columns(Product_URL=["https://a/1"], Supplier_URL=["https://b/1"])
    (match,) = match_columns(links, {"startUrls": START_URLS}, []).matches
    assert (match.column, match.rivals) == ("Product URL", ("Supplier URL",))
    (match,) = match_columns(links, {"startUrls": START_URLS}, [], chosen={"startUrls": "Supplier URL"}).matches
    assert (match.column, match.rivals) == ("Supplier URL", ())


def test_a_required_property_that_nothing_fills_is_missing() -> None:
    """Unless the task or the schema gives it."""
    required = ["startUrls", "maxItems"]
    assert match_columns([], SCRAPER, required, given=["maxItems"]).missing == ("startUrls",)


def test_a_column_with_gaps_or_repetitions_is_no_key() -> None:
    """Whatever its name is."""
    assert match_columns(columns(id=["a", "a"]), SCRAPER, []).key is None
    assert match_columns(columns(id=["a", ""]), SCRAPER, []).key is None


@pytest.mark.parametrize("name", ["Artikelnummer", "Artikel-Nr", "Art.-Nr.", "ArtNr", "product_ids", "ASIN"])
def test_a_column_named_like_an_identifier_is_the_key(name: str) -> None:
    """In English and German, in any case."""
    assert match_columns([JobColumn(name=name, values=["a", "b"], is_unique=True)], SCRAPER, []).key == name


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *(
            (name, {})
            for name in ("API key", "access_key", "session_id", "license key", "db_pwd", "Kennwort", "client_key")
        ),
        ("ID", {"id": {"isSecret": True}}),
    ],
)
def test_a_column_of_secrets_is_neither_key_nor_copied(name: str, field: dict[str, Any]) -> None:
    """Keys stand in reports and logs."""
    fields = {name: {"type": "string", **more} for name, more in field.items()} or {"url": {"type": "string"}}
    found = match_columns([JobColumn(name=name, values=["a", "b"], is_unique=True)], fields, [])
    assert (found.key, found.meta) == (None, ())


@pytest.mark.parametrize("name", ["@key", 'a"b', "a}}b", " "])
def test_a_column_that_no_placeholder_can_read_is_left_out(name: str) -> None:
    """It fills nothing and is not copied; it is not usable."""
    found = match_columns([JobColumn(name=name, values=["a"], is_unique=True)], {}, [])
    assert (found.template, found.key, found.meta, is_usable(name)) == ({}, None, (), False)


def test_without_a_schema_each_column_fills_the_property_of_its_name() -> None:
    """Numbers are numbers, unless that would lose digits."""
    found = match_columns(columns(n=["1", "20"], x=["1.5", "2"], zip=["01067", "10115"], t=["a", "b"]), {}, [])
    assert found.template == {"n": "{{n:int}}", "x": "{{x:float}}", "zip": "{{zip}}", "t": "{{t}}"}


@pytest.mark.parametrize("name", ["Product URL", "dc:title", "a.b", "what?", "Preis (€)", "größe", "{x}", "1st"])
def test_a_placeholder_reads_the_column_whatever_its_name(name: str) -> None:
    """Names that are no plain words are quoted."""
    text = placeholder(JobColumn(name=name, values=["x"]), "q", {"type": "string"})
    assert Template(text, "key").fill({name: "found"}) == "found"


@pytest.mark.parametrize("value", ['a\n"b"\\ \x7f\x01 é', 1, 1.5, True, [1, "a"], {"a b": {"c": [None, 1]}}, {}])
def test_a_value_is_written_as_toml(value: Any) -> None:
    """It is read as the same value, without nulls."""
    expected = {"a b": {"c": [1]}} if isinstance(value, dict) and value else value
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == expected


def test_texts_of_others_cannot_leave_a_comment(tmp_path: Path) -> None:
    """Names and titles with line ends stay in their comment, and the file is TOML that says what was meant."""
    evil = 'x\n[api]\nbase_url = "http://evil"'
    draft = BatchDraft(
        file=tmp_path / "batch.toml",
        jobs=tmp_path / "data" / "jobs.csv",
        lines=evil,
        reading={"delimiter": ";"},
        base_url=None,
        actors=(),
        task={"id": evil},
        task_words=evil,
        fields={evil: {"type": evil, "title": evil}, "b": {"type": "string", "title": evil}},
        given={},
        matching=Matching(matches=(), missing=(evil,), key=None, meta=(evil,)),
        constants={"c": evil},
    )
    assert tomllib.loads(batch_file_text(draft)) == {
        "task": {"id": evil},
        "jobs": {"file": "data/jobs.csv", "delimiter": ";", "meta": [evil], "template": {}},
        "input": {"c": evil},
        "limits": {"max_concurrent_runs": "auto"},
        "run": {},
        "output": {},
    }
