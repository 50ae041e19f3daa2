"""A file of lines as a table: what a spreadsheet makes of text that others wrote."""

import csv
import io

import orjson

from batchrun.worker.http.table_file import table_pieces

LINE = {"key": "=cmd|'/c calc'!A1", "n": -1, "run": {"words": ["@SUM(A1)", "plain"], "deep": {}}}


async def test_no_text_of_a_record_is_a_formula_and_items_are_as_they_are(tmp_path):
    """Numbers stay numbers; deep nesting is one cell."""
    file = tmp_path / "records.jsonl"
    file.write_bytes(orjson.dumps(LINE) + b"\n" + b'{"n":' + b"[" * 250 + b'"=1"' + b"]" * 250 + b"}\n")

    async def rows(*, is_exact: bool) -> list[dict[str, str]]:
        pieces = table_pieces(file, file.stat().st_size, "csv", is_exact=is_exact)
        text = b"".join([piece async for piece in pieces]).decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text)))

    exact, guarded = await rows(is_exact=True), await rows(is_exact=False)
    assert (guarded[0]["key"], guarded[0]["run.words/0"]) == ("'=cmd|'/c calc'!A1", "'@SUM(A1)")
    assert (exact[0]["key"], exact[0]["run.words/0"]) == ("=cmd|'/c calc'!A1", "@SUM(A1)")
    assert list(guarded[0]) == list(exact[0])
    assert guarded[0]["n"] == "-1"
    assert [cell[:1] for cell in guarded[1].values() if cell] == ["["]
