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
LATE: list[dict[str, Any]] = [
    {"url": "https://x/", "price": 1.5, "sale": {"was": 1.5}, "id": "1e5", "day": "soon", "error": "späť"},
    {"url": "https://x/", "price": "n/a", "sale": {"was": 2}, "id": "2", "day": None, "n": 2**64 + 1},
]
COLUMNS = {"_key", "_line", "_run", "_outcome", "_meta", "url", "price", "sale", "id", "day", "error", "n"}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write items whose last ones have what no other has: columns, a fraction, a text for a price, an object."""
    run = parse_run({"id": "run-1", "status": "SUCCEEDED"})
    tag = item_tag(make_job(key="k", meta={"sku": "007"}), run, Outcome.SUCCEEDED)
    items: list[dict[str, Any]] = [
        {"url": f"https://x/{n}", "price": n, "sale": None, "id": f"{n:08}", "day": "2026-03-31"}
        for n in range(ROWS - len(LATE))
    ]
    items += LATE
    monkeypatch.chdir(tmp_path)
    Path("products.out").mkdir()
    Path("products.out/items.jsonl").write_bytes(item_lines(items, tag)[0])


def snippet(word: str) -> str:
    """Return the block of the README that has a word."""
    section = README.split("## Loading the results")[1].split("\n## ")[0]
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
        rows = [items.iloc[n].to_dict() for n in (7, -2, -1)]
    elif library == "polars":
        rows = [items.row(n, named=True) for n in (7, -2, -1)]
    else:
        found = [dict(zip(items.columns, row, strict=True)) for row in items.fetchall()]
        rows = [found[n] for n in (7, -2, -1)]
    first, fraction, last = rows
    assert (first["id"], first["price"], first["day"], first["_meta"]["sku"]) == ("00000007", 7, "2026-03-31", "007")
    assert (fraction["id"], fraction["price"], fraction["sale"], fraction["error"]) == (
        "1e5",
        1.5,
        {"was": 1.5},
        "späť",
    )
    assert (last["id"], last["sale"]) == ("2", {"was": 2})
    assert last["price"] is None or last["price"] != last["price"], "no number"
    assert int(last["n"]) == 2**64 + 1 or library != "pandas"


@pytest.mark.usefixtures("results")
@pytest.mark.skipif(which("jq") is None, reason="jq is not installed")
def test_items_load_with_jq() -> None:
    """A line of CSV for each item; what is no number is left empty."""
    done = subprocess.run(["sh", "-c", snippet("jq -r")], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert (len(lines), lines[7]) == (ROWS, '"k","https://x/7",7')
    assert lines[-2:] == ['"k","https://x/",1.5', '"k","https://x/",']
