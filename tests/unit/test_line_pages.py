"""Pages of a file of lines, newest first."""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.errors import OutputError
from batchrun.output import line_pages
from batchrun.output.line_pages import LinePage, read_line_page


def all_pages(file: Path, limit: int, words: list[str]) -> list[bytes]:
    """Return the lines of all pages, from the end of the file on."""
    found: list[bytes] = []
    before = file.stat().st_size
    while before:
        page = read_line_page(file, before, limit, words)
        assert page.before < before, "each page looks further"
        found += page.lines
        before = page.before
    return found


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text("aé\r\u2028", max_size=12), max_size=20),
    tail=st.sampled_from(["", "cut"]),
    limit=st.integers(1, 5),
    block=st.integers(1, 9),
)
def test_pages_together_are_all_whole_lines_newest_first(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], tail: str, limit: int, block: int
) -> None:
    """Whatever the blocks are cut at; an incomplete last line is left out."""
    file = tmp_path_factory.mktemp("lines") / "records.jsonl"
    file.write_bytes("".join(f"{line}\n" for line in lines).encode() + tail.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_pages, "_BLOCK_BYTES", block)
        assert all_pages(file, limit, []) == [line.encode() for line in reversed(lines)]


def test_a_search_finds_words_whatever_their_case_and_stops_after_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page without a hit still leads on to the lines before it."""
    file = tmp_path / "items.jsonl"
    file.write_text("".join(f'{{"n":{n},"name":"ÄPFEL {n}"}}\n' for n in range(1000)), "utf-8")
    monkeypatch.setattr(line_pages, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(line_pages, "MAX_SEARCHED_BYTES", 1000)
    first = read_line_page(file, file.stat().st_size, 10, ["äpfel 7", '"n":7,'])
    assert (first.lines, first.before > 0) == ([], True)
    assert all_pages(file, 10, ["äpfel 7", '"n":7,']) == ['{"n":7,"name":"ÄPFEL 7"}'.encode()]


def test_a_page_is_bounded_in_bytes_but_has_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line larger than a page is a page of its own."""
    monkeypatch.setattr(line_pages, "MAX_PAGE_BYTES", 10)
    file = tmp_path / "items.jsonl"
    file.write_bytes(b"a\n" + b"b" * 50 + b"\nc\n")
    assert read_line_page(file, 55, 9, []) == LinePage([b"c"], 53)
    assert read_line_page(file, 53, 9, []) == LinePage([b"b" * 50], 2)


def test_a_line_without_an_end_is_an_error_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file takes no disk; whoever may write to an output directory may put one there."""
    monkeypatch.setattr(line_pages, "MAX_LINE_BYTES", 1 << 16)
    monkeypatch.setattr(line_pages, "_BLOCK_BYTES", 1 << 12)
    with (tmp_path / "records.jsonl").open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    with pytest.raises(OutputError, match=r"has a line of .* bytes or more, which no batch writes"):
        read_line_page(tmp_path / "records.jsonl", 64 << 20, 1, [])
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
