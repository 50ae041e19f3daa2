"""A file of lines as a table: what a spreadsheet makes of text that others wrote."""

import csv
import io
import tracemalloc
import zipfile

import orjson
import pytest

from batchrun.report.output_files.export_file import table_pieces
from batchrun.server.content import item_formats
from batchrun.server.content.item_formats import FORMATS, MAX_COLUMNS, add_columns
from batchrun.server.content.query_parameters import Query

LINE = {"key": "=cmd|'/c calc'!A1", "n": -1, "run": {"words": ["@SUM(A1)", "plain"], "deep": {}}}


def test_no_text_of_a_record_is_a_formula_and_items_are_as_they_are(tmp_path):
    """Numbers stay numbers; deep nesting is one cell."""
    file = tmp_path / "records.jsonl"
    file.write_bytes(orjson.dumps(LINE) + b"\n" + b'{"n":' + b"[" * 250 + b'"=1"' + b"]" * 250 + b"}\n")

    def rows(*, is_exact: bool) -> list[dict[str, str]]:
        pieces = table_pieces(file, file.stat().st_size, "csv", is_exact=is_exact)
        text = b"".join(pieces).decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text)))

    exact, guarded = rows(is_exact=True), rows(is_exact=False)
    assert (guarded[0]["key"], guarded[0]["run.words/0"]) == ("'=cmd|'/c calc'!A1", "'@SUM(A1)")
    assert (exact[0]["key"], exact[0]["run.words/0"]) == ("=cmd|'/c calc'!A1", "@SUM(A1)")
    assert list(guarded[0]) == list(exact[0])
    assert guarded[0]["n"] == "-1"
    assert [cell[:1] for cell in guarded[1].values() if cell] == ["["]


def test_no_name_of_a_column_and_no_nested_cell_is_a_formula(tmp_path):
    """Where the spreadsheet divides lines at semicolons, too; the names begin no other column."""
    file = tmp_path / "records.jsonl"
    line = {"meta": {"a;=cmd|calc!A0": "x", "=1+1": 2, "p" * 198: {"q": ["a;=1+1;b"]}}}
    file.write_bytes(orjson.dumps(line) + b"\n")
    text = b"".join(table_pieces(file, file.stat().st_size, "csv", is_exact=False)).decode("utf-8-sig")
    assert "a;'=cmd" in text
    assert ";=" not in text
    (row,) = csv.DictReader(io.StringIO(text))
    assert list(row.values()) == ["x", "2", """{"q":["a;'=1+1;b"]}"""]


@pytest.mark.parametrize(("name", "at_once"), [("csv", 3), ("html", 3), ("xlsx", 60)])
def test_small_items_under_thousands_of_columns_take_little_memory(monkeypatch, name, at_once):
    """Each row is as long as the table is wide: 2 bytes of an item become 110 KB of a sheet, which are compressed."""
    monkeypatch.setattr(item_formats, "MAX_CELLS", at_once * MAX_COLUMNS)
    writer = FORMATS[name].writer([f"c{n}" for n in range(MAX_COLUMNS)], Query(""), "")
    tracemalloc.start()
    pieces = [piece for piece, _ in writer.pieces([{}] * 60)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pieces) == 60 // at_once
    assert peak < 2 << 20
    if name == "xlsx":
        archive = zipfile.ZipFile(io.BytesIO(b"".join([writer.opening, *pieces, writer.closing()])))
        assert archive.read("xl/worksheets/sheet1.xml").count(b"<row>") == 61


def test_a_value_that_cannot_be_written_is_a_cell_that_says_so():
    """An answer that has begun cannot become an error."""
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    item, columns = {"a": 1, "b": deep}, dict[str, None]()
    add_columns(columns, [item])
    writer = FORMATS["csv"].writer(list(columns), Query(""), "")
    assert list(writer.pieces([item])) == [(b"1,(nested too deep)\r\n", True)]
