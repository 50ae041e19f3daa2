"""The README's lines that load the results, on items that are hard to load."""

import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from batchrun.apify.wire import parse_run
from batchrun.model import Outcome
from batchrun.output.item_lines import item_lines, item_tag
from tests.support.memory_ledger import make_job

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
ROWS = 25_000
COLUMNS = {"_key", "_line", "_run", "_outcome", "_meta", "url", "price", "sale", "id", "day", "error"}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write items whose last one has what no other has: a column, a fraction, a value where all were null."""
    run = parse_run({"id": "run-1", "status": "SUCCEEDED"})
    tag = item_tag(make_job(key="k", meta={"sku": "007"}), run, Outcome.SUCCEEDED)
    items: list[dict[str, Any]] = [
        {"url": f"https://x/{n}", "price": n, "sale": None, "id": f"{n:08}", "day": "2026-03-31"}
        for n in range(ROWS - 1)
    ]
    items.append({"url": "https://x/", "price": 1.5, "sale": "no", "id": "1e5", "day": "soon", "error": "späť"})
    monkeypatch.chdir(tmp_path)
    Path("shop.out").mkdir()
    Path("shop.out/items.jsonl").write_bytes(item_lines(items, tag)[0])


def snippet(word: str) -> str:
    """Return the block of the README that has a word."""
    section = README.split("### Loading the results")[1].split("\n## ")[0]
    (found,) = (block for block in re.findall(r"```\w+\n(.*?)```", section, re.DOTALL) if word in block)
    return str(found)


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_items_load_with_all_columns_and_their_types(library: str) -> None:
    """A late column is there, ids keep their zeros, and dates stay text where not all of them are dates."""
    pytest.importorskip(library)
    names: dict[str, Any] = {}
    exec(snippet(f"import {library}" if library != "pandas" else "pandas"), names)
    items = names["items"]
    assert set(items.columns) == COLUMNS
    if library == "pandas":
        first, last = items.iloc[7].to_dict(), items.iloc[-1].to_dict()
    elif library == "polars":
        first, last = items.row(7, named=True), items.row(-1, named=True)
    else:
        rows = [dict(zip(items.columns, row, strict=True)) for row in items.fetchall()]
        first, last = rows[7], rows[-1]
    assert (first["id"], first["price"], first["day"], first["_meta"]["sku"]) == ("00000007", 7, "2026-03-31", "007")
    assert (last["id"], last["price"], last["sale"], last["error"]) == ("1e5", 1.5, "no", "späť")


@pytest.mark.usefixtures("results")
@pytest.mark.skipif(which("jq") is None, reason="jq is not installed")
def test_items_load_with_jq() -> None:
    """A line of CSV for each item."""
    done = subprocess.run(["sh", "-c", snippet("jq -r")], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert (len(lines), lines[7], lines[-1]) == (ROWS, '"k","https://x/7",7', '"k","https://x/",1.5')
