"""The job file becomes jobs: formats, offsets, resuming, bad files."""

import errno
import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import BatchrunError, ConfigError, JobFileError, JobFileLost
from batchrun.jobs import JobFile, JobFormat, ReadPoint, is_job_file, json_rows, skipped_lines, text_source
from batchrun.jobs.rows import KEPT_BYTES, MAX_PARTS, MAX_ROW_BYTES
from batchrun.model import BadLine, Job, JobKey, Position

Write = Callable[[str, bytes], Path]

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
names = st.text().filter(lambda name: not name.startswith("@"))
values = st.recursive(
    scalars.filter(lambda v: v not in (float("inf"), float("-inf"))), lambda inner: st.lists(inner, max_size=3)
)
overrides = st.dictionaries(names, values, max_size=4)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def read(path: Path, **settings: Any) -> list[Job | BadLine]:
    with JobFile(JobFormat(path=path, **settings)) as file:
        return list(file.read())


def jobs(path: Path, **settings: Any) -> list[Job]:
    return [made for made in read(path, **settings) if isinstance(made, Job)]


def bodies(path: Path, **settings: Any) -> list[Any]:
    return [orjson.loads(job.body) for job in jobs(path, **settings)]


def reasons(path: Path, **settings: Any) -> list[tuple[int, str]]:
    return [(made.position.line, made.reason) for made in read(path, **settings) if isinstance(made, BadLine)]


def read_all(path: Path, **settings: Any) -> None:
    with JobFile(JobFormat(path=path, **settings)) as file:
        file.check_head()
        list(file.read())


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(BatchrunError) as caught:
        read_all(path, **settings)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_a_line_becomes_a_job(write: Write) -> None:
    """A job has the body as given, its digest as key, and its position."""
    path = write("jobs.jsonl", b'\n{"b": 1, "a": "\xc3\xa9"}\r\n')
    digest = sha256('{"a":"é","b":1}'.encode()).digest()[:16]
    assert read(path) == [
        Job(
            key=JobKey(digest.hex()),
            digest=digest,
            position=Position(line=2, offset=1, length=21),
            body='{"b":1,"a":"é"}'.encode(),
        )
    ]


def test_a_line_that_is_no_object_is_a_bad_line(write: Write) -> None:
    """Each reason says what the line is instead; blank lines are skipped."""
    lines = [b"[1]", b'"x"', b"5", b"null", b"true", b"", b"  \t", b"{", b'{"a":', b'{"a": NaN}', b'{"a":"\\ud800"}']
    example = 'an object like {"url": "https://example.com"}'
    assert reasons(write("jobs.jsonl", b"\n".join(lines))) == [
        (1, f"is a JSON array; each line must be {example}"),
        (2, f"is a JSON string; each line must be {example}"),
        (3, f"is a number; each line must be {example}"),
        (4, f"is null; each line must be {example}"),
        (5, f"is true or false; each line must be {example}"),
        (8, "is only the beginning of a JSON value; write one object per line, or name an array .json"),
        (9, f"is not JSON (unexpected end of data, at character 7); each line must be {example}"),
        (10, f"is not JSON (unexpected character, expected a JSON value, at character 7); each line must be {example}"),
        (11, f"is not JSON (no low surrogate in string, at character 7); each line must be {example}"),
    ]


def test_a_line_in_another_encoding_says_so(write: Write) -> None:
    """The reason names the byte and the setting that helps; with that setting the line is a job."""
    path = write("jobs.jsonl", b'{"a":"caf\xe9"}\n')
    assert read(path) == [
        BadLine(
            position=Position(line=1, offset=0, length=13),
            reason="is not UTF-8 (byte 0xe9 at position 10); convert the file, "
            'or name its encoding: jobs.encoding = "cp1252"',
            content='{"a":"caf\ufffd"}',
        )
    ]
    assert bodies(path, encoding="latin-1") == [{"a": "café"}]


def test_of_a_property_given_twice_the_last_counts(write: Write) -> None:
    """As in JavaScript; whole numbers beyond 64 bits lose digits, as they do there."""
    path = write("jobs.jsonl", b'{"a":1,"a":2,"n":123456789012345678901234567890,"z":"\\u0000"}')
    assert bodies(path) == [{"a": 2, "n": 1.2345678901234568e29, "z": "\0"}]


def test_an_input_that_is_too_deep_or_too_large_is_a_bad_line(write: Write) -> None:
    """An input that the API or JSON does not allow is refused before anything is sent."""
    deep = b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"
    large = b'{"a":"' + b"x" * 10_000_000 + b'"}'
    path = write(
        "jobs.jsonl", b"\n".join([deep, large, b"{}", *(deep.replace(b"a", at) for at in (b"@key", b"@meta"))])
    )
    assert reasons(path) == [
        (1, "is nested deeper than 254 levels; flatten it"),
        (
            2,
            (
                "gives an input of 10,000,008 bytes; the API takes 9,437,184 at most: "
                "put large content into a key-value store and pass its address"
            ),
        ),
        (4, "the key must be a string, not a list"),
        (5, "is nested deeper than 254 levels; flatten it"),
    ]
    assert [job.position.line for job in jobs(path)] == [3]


def test_a_line_of_a_million_lists_is_a_bad_line(write: Write) -> None:
    """It would take thirty times its length of memory; so would a cell that the json filter parses."""
    wanted = f"holds {MAX_PARTS + 1:,} objects and lists; {MAX_PARTS:,} are allowed"
    most, many = (b"[" + b"[]," * (count - 2) + b"[]]" for count in (MAX_PARTS - 1, MAX_PARTS + 1))
    assert reasons(write("jobs.jsonl", b'{"a":' + most + b"}")) == []
    assert reasons(write("jobs.jsonl", b'{"a":' + many + b"}\n{}")) == [(1, wanted.replace("01 o", "02 o"))]
    cell = write("jobs.csv", b'a\n"' + many + b'"\n[]\n')
    assert reasons(cell, template={"b": "{{a:json}}"}) == [(2, f"has a cell that {wanted}")]


@pytest.mark.parametrize("name", ["jobs.jsonl", "jobs.csv"])
def test_a_bad_line_is_reported_whole(write: Write, name: str) -> None:
    """Whoever mends it needs all of it; at most 16 MB."""
    line = "é" * 1_000_000
    head = "a,b\n" if name == "jobs.csv" else ""
    (bad,) = read(write(name, f"{head}{line}\r\n".encode()))
    assert isinstance(bad, BadLine)
    assert bad.content == line


def test_an_endless_line_is_skipped_unread(write: Write) -> None:
    """The report of a line beyond 16 MB is cut, and the next line has the right position."""
    size = 2 * MAX_ROW_BYTES
    path = write("jobs.jsonl", b"x" * size + b'\n{"a":1}')
    bad, good = read(path)
    assert isinstance(bad, BadLine)
    assert bad.position == Position(line=1, offset=0, length=size + 1)
    assert bad.content == "x" * KEPT_BYTES + "…"
    assert bad.reason == ("is longer than 16,777,216 bytes and was skipped; the API takes at most 9,437,184 bytes")
    assert good.position == Position(line=2, offset=size + 1, length=7)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "empty.jsonl: holds no jobs; write one job per line"),
        ("blank.jsonl", b"\xef\xbb\xbf\n \r\n", "blank.jsonl: holds no jobs; write one job per line"),
        ("empty.json", b" ", "empty.json: holds no jobs; write one job per line"),
        ("none.json", b"[ ]", "none.json: holds no jobs; write one job per line"),
        ("empty.csv", b"\n", "empty.csv: holds no jobs: the file is empty"),
        ("header.csv", b"a,b\n,\n", "header.csv: holds no jobs; write one job per line"),
        ("empty.jsonl.gz", gzip.compress(b"", mtime=0), "empty.jsonl.gz: holds no jobs; write one job per line"),
        ("nothing.jsonl.gz", b"", "nothing.jsonl.gz: holds no jobs; write one job per line"),
        (
            "cat.jsonl",
            b"\x89PNG\r\n\x1a\n\0\0",
            "cat.jsonl: is not text; a job file is JSON lines, a JSON array or CSV",
        ),
        ("cat.csv", bytes(range(1, 256)), "cat.csv: is not text; a job file is JSON lines, a JSON array or CSV"),
        ("zip.csv", b"PK\x03\x04\x14\0", "zip.csv: is a zip archive or an Excel workbook; save it as CSV"),
        ("gz.jsonl", gzip.compress(b"{}", mtime=0), "gz.jsonl: is compressed with gzip; add .gz to its name"),
        ("zst.jsonl", zstandard.compress(b"{}"), "zst.jsonl: is compressed with zstd; add .zst to its name"),
        (
            "not.jsonl.gz",
            b'{"a":1}',
            "not.jsonl.gz: is damaged or not compressed as its name says (Not a gzipped file (b'{\"'))",
        ),
        (
            "jobs.txt",
            b"{}",
            (
                "jobs.txt: the name must end in one of .jsonl, .ndjson, .json, .csv, .tsv "
                "(each also with .gz or .zst); '-' reads JSON lines from stdin"
            ),
        ),
        (
            "wrapped.json",
            b' {"data": [{"a":1}]}',
            "wrapped.json: is an object whose list is 'data'; write the list alone, as with: jq '.\"data\"' FILE",
        ),
        (
            "jobs.parquet",
            b"PAR1",
            "jobs.parquet: is not read; save it as CSV, or: duckdb -c \"COPY (FROM 'jobs.parquet') TO 'jobs.jsonl'\"",
        ),
        ("object.json", b'{"a":1}', "object.json: is not a JSON array; a file of one object per line is named .jsonl"),
        (
            "open.json",
            b'[{"a":1}',
            (
                "open.json:1: the array is broken at byte 9: "
                "expected a comma or the end of the array, found the end of the file"
            ),
        ),
        ("cut.json", b'[{"a":1},{"b":"]', "cut.json:2: begins here and never ends; the file may be cut off"),
        ("comma.json", b'[{"a":1},]', 'comma.json:2: the array is broken at byte 10: expected an object, found "]"'),
        (
            "more.json",
            b"[{}] {}",
            'more.json:1: the array is broken at byte 6: expected nothing after the array, found "{"',
        ),
    ],
)
def test_an_unfit_file_gives_a_message_of_one_line(write: Write, name: str, content: bytes, message: str) -> None:
    """The message names the file, what is wrong, and what to do."""
    assert refusal(write(name, content)) == message


def test_what_is_no_regular_file_gives_a_message_of_one_line(tmp_path: Path) -> None:
    """A missing file, a directory and a pipe have different messages."""
    (tmp_path / "dir.jsonl").mkdir()
    assert refusal(tmp_path / "gone.jsonl") == "gone.jsonl: there is no such file"
    assert refusal(tmp_path / "dir.jsonl") == "dir.jsonl: is a directory; name a file"
    assert refusal(Path("/dev/null.jsonl").with_name("null")).startswith("null: the name must end in")


def test_an_unknown_encoding_is_a_config_error(write: Write) -> None:
    """So is a codec that is not for text, like base64, and one whose time grows with the square of the file."""
    for encoding in ("utf-99", "base64", "", "idna", "PunyCode", "utf7", "unicode_escape", "undefined"):
        with pytest.raises(ConfigError) as caught:
            JobFile(JobFormat(path=write("jobs.jsonl", b"{}"), encoding=encoding))
        assert caught.value.key == "jobs.encoding"


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_reads_like_plain(write: Write, suffix: str) -> None:
    """Positions count bytes of the plain text, across several members or frames."""
    compress = gzip.compress if suffix == "gz" else zstandard.compress
    lines = [b'{"n":%d}\n' % n for n in range(1000)]
    plain = write("jobs.jsonl", b"".join(lines))
    packed = write(f"jobs.jsonl.{suffix}", compress(b"".join(lines[:400])) + compress(b"".join(lines[400:])))
    with JobFile(JobFormat(path=packed)) as file:
        found = list(file.read())
        assert found == read(plain)
        assert (file.is_seekable, file.is_replayable) == (False, True)
        assert list(file.reread([found[7].position, found[500].position])) == [found[7], found[500]]
        assert list(file.read(file.read_point)) == found
        assert (file.check_head(), file.count_estimate()) == ([], 1000)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_cut_off_compressed_file_gives_its_jobs_and_then_says_so(write: Write, suffix: str) -> None:
    """The end of cut-off data is not taken for the end of the file."""
    text = b"".join(b'{"n":%d,"t":"%b"}\n' % (n, b"%x" % (n * 7919)) for n in range(20_000))
    packed = (gzip.compress if suffix == "gz" else zstandard.compress)(text)
    path = write(f"jobs.jsonl.{suffix}", packed[: len(packed) * 2 // 3])
    found: list[Job | BadLine] = []

    def take() -> None:
        with JobFile(JobFormat(path=path)) as file:
            for made in file.read():
                found.append(made)  # noqa: PERF402 - extend forgets what came before an error

    with pytest.raises(JobFileError) as caught:
        take()
    assert caught.value.problem == "is cut off: the compressed data ends too early; copy it again"
    assert 1_000 < len(found) < 20_000
    assert not [bad for bad in found if isinstance(bad, BadLine)]


def test_a_large_array_takes_no_memory_while_the_batch_goes_on(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has fifty batches, and an array of 64 MB may be uploaded as some KB."""
    rows = [{"n": n, "text": "x" * 1_000} for n in range(10_000)]
    file = write("jobs.json", orjson.dumps(rows))
    with JobFile(JobFormat(path=file)) as job_file:
        tracemalloc.start()
        read = job_file.read()
        first = next(read)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert [orjson.loads(one.body) for one in (first, *read) if isinstance(one, Job)] == rows
    assert held < 3 << 20
    assert [each.name for each in file.parent.iterdir()] == ["jobs.json"]
    monkeypatch.setattr(json_rows, "MAX_ARRAY_BYTES", 5 << 20)
    with pytest.raises(JobFileError, match="is larger than 5 MB; write one object per line"):
        jobs(file)


@pytest.mark.parametrize("max_bytes", [0, 3 << 20, 7 << 19])
def test_a_large_array_is_held_in_memory_if_the_disk_is_full(
    write: Write, monkeypatch: pytest.MonkeyPatch, max_bytes: int
) -> None:
    """The disk may have room for some pieces, and for a part of one."""
    resource = pytest.importorskip("resource")
    rows = [{"n": n, "text": "x" * 5_000} for n in range(1_000)]
    file = write("jobs.json", orjson.dumps(rows))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        assert bodies(file) == rows
        monkeypatch.setattr(json_rows, "MAX_ARRAY_BYTES", 5_000_000)
        with pytest.raises(JobFileError, match="is larger than 4 MB"):
            jobs(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_json_array_is_read_by_elements(write: Write) -> None:
    """Lines count elements; offset and length are the element's; a bad element is a bad line."""
    path = write("jobs.json", b'\xef\xbb\xbf[\n {"a":"]}\\""},\n 7, {"b":{}}, {bad}\n]\n')
    assert bodies(path) == [{"a": ']}"'}, {"b": {}}]
    positions = [Position(line=1, offset=6, length=12), Position(line=3, offset=24, length=8)]
    assert [job.position for job in jobs(path)] == positions
    assert [line for line, _ in reasons(path)] == [2, 4]
    with JobFile(JobFormat(path=path)) as file:
        assert (file.is_seekable, file.count_estimate()) == (False, 4)
        assert [job.position for job in file.reread(positions)] == positions


@given(st.lists(overrides, max_size=6))
def test_an_array_reads_like_its_lines(write: Write, given_overrides: list[Any]) -> None:
    """Whatever the overrides, spaced and escaped as the json module does it, the jobs are the same."""
    array = write("jobs.json", json.dumps(given_overrides, indent=1).encode())
    lines = write("jobs.jsonl", "".join(json.dumps(one, ensure_ascii=True) + "\n" for one in given_overrides).encode())
    assert [(job.key, job.body, job.position.line) for job in jobs(array)] == [
        (job.key, job.body, job.position.line) for job in jobs(lines)
    ]
    assert bodies(array) == [orjson.loads(orjson.dumps(one)) for one in given_overrides]


@given(
    # A file that speaks of priorities gives bad lines before the jobs it holds back; the look-ahead has its own tests.
    st.lists(overrides.map(orjson.dumps) | st.binary(max_size=20), max_size=8).filter(
        lambda lines: not any(b"@priority" in line for line in lines)
    ),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_reading_goes_on_from_any_read_point(write: Write, lines: list[bytes], end: bytes) -> None:
    """From each read point exactly the rest is read; every job is found again at its position."""
    path = write("jobs.jsonl", b'{"first":"%b"}' % (b"x" * 4096) + end + end.join(lines))
    with JobFile(JobFormat(path=path)) as file:
        found, points = [], [file.read_point]
        for made in file.read():
            found.append(made)
            points.append(file.read_point)
        for number, point in enumerate(points):
            assert list(file.read(point)) == found[number:]
        good = [made for made in found if isinstance(made, Job)]
        assert list(file.reread([job.position for job in reversed(good)])) == good[::-1]


def test_a_line_that_gets_its_end_later_is_no_new_line(write: Write) -> None:
    """A file whose last line had no end can be appended to; its lines keep their numbers."""
    path = write("jobs.jsonl", b'{"n":1}\n{"n":2}')
    with JobFile(JobFormat(path=path)) as file:
        list(file.read())
        point = file.read_point
    assert point == ReadPoint(offset=15, line=2)
    with path.open("ab") as appended:
        appended.write(b'\n{"n":3}\n')
    with JobFile(JobFormat(path=path)) as file:
        assert file.is_as_read(point)
        assert [made.position for made in file.read(point)] == [Position(line=3, offset=16, length=8)]


def encoded(name: str, text: str) -> bytes:
    """Return the text of a job file as its name says."""
    content = text.encode("utf-16" if "utf16" in name else "utf-8")
    if name.endswith(".gz"):
        return gzip.compress(content)
    return zstandard.compress(content) if name.endswith(".zst") else content


@pytest.mark.parametrize(
    "name",
    ["jobs.jsonl", "jobs.csv", "jobs.json", "jobs.jsonl.gz", "jobs.csv.zst", "utf16.jsonl", "utf16.csv", "ahead.jsonl"],
)
def test_an_edit_of_text_that_was_read_is_seen_in_every_format(write: Write, name: str) -> None:
    """Wherever it is, and by the decoded text; lines that were not read yet may change, and more may be appended."""
    begin, end, after = ("[", "]", ",\n") if name == "jobs.json" else ("url,n\n" if "csv" in name else "", "", "\n")
    line = "https://example.com/é,1%05d" if "csv" in name else '{"url":"https://example.com/é","n":1%05d}'
    count = 16_000 if "ahead" in name else 2_000  # jobs are taken from among 10,000 lines where they have priorities
    lines = [line % n + after for n in range(count)]
    if "ahead" in name:
        lines[0] = lines[0].replace('"n"', '"@priority":0,"n"')

    def content(given: list[str]) -> bytes:
        return encoded(name, begin + "".join(given).rstrip(",\n") + after.strip(",") + end)

    path = write(name, content(lines))
    with JobFile(JobFormat(path=path)) as file:
        assert all(isinstance(made, Job) for made in islice(file.read(), count * 3 // 4))
        point = file.read_point
    assert point.line > count * 3 // 4 - 1_000 - 10_000 * ("ahead" in name)

    def is_as_read(given: list[str]) -> bool:
        with JobFile(JobFormat(path=write(name, content(given)))) as file:
            return file.is_as_read(point)

    def edited(number: int) -> list[str]:
        return [*lines[:number], lines[number].replace("example", "exemple"), *lines[number + 1 :]]

    last = point.line - 1 - ("csv" in name)
    assert is_as_read(lines)
    assert is_as_read([*lines, lines[7]])
    assert is_as_read(edited(last + 1))
    assert [is_as_read(edited(number)) for number in (0, last // 2, last)] == [False] * 3
    assert not is_as_read(lines[1:])
    assert not is_as_read([lines[5], *lines])
    assert not is_as_read(lines[:last])


def test_the_fingerprint_is_of_the_bytes_that_were_read(write: Write) -> None:
    """A file that is replaced or rewritten while it is read does not lend its fingerprint to what was read before."""
    first, second = (b"".join(b'{"n":%06d}\n' % (n + add) for n in range(20_000)) for add in (0, 1))
    path = write("jobs.jsonl", first)
    with JobFile(JobFormat(path=path)) as file:
        entries = file.read()
        list(islice(entries, 100))
        write("new.jsonl", second).rename(path)
        list(islice(entries, 100))
        point = file.read_point
        assert not file.is_as_read(point)
    write("jobs.jsonl", b"")
    write("jobs.jsonl", first)
    with JobFile(JobFormat(path=path)) as file:
        assert file.is_as_read(point)


def test_fingerprints_of_older_versions_hold(write: Write) -> None:
    """They cover 64 KB at each end of the text that was read; a compressed file had none."""
    content = b"".join(b'{"n":%06d}\n' % n for n in range(20_000))
    offset = 15_000 * 13
    head, tail = content[: 64 << 10], content[offset - (64 << 10) : offset]
    point = ReadPoint(offset=offset, line=15_000, fingerprint=sha256(b"%d\n%b\n%b" % (offset, head, tail)).digest())
    for text, is_same in (
        (content, True),
        (content + b"{}\n", True),
        (b" " + content[1:], False),
        (content[:9], False),
    ):
        with JobFile(JobFormat(path=write("jobs.jsonl", text))) as file:
            assert file.is_as_read(point) is is_same
    with JobFile(JobFormat(path=write("jobs.jsonl.gz", gzip.compress(content)))) as file:
        assert file.is_as_read(ReadPoint(offset=offset, line=15_000))


@pytest.mark.parametrize("name", ["jobs.jsonl", "jobs.csv", "jobs.jsonl.gz", "utf16.jsonl"])
def test_a_last_line_without_its_end_is_held_back(write: Write, name: str) -> None:
    """The read point stays before it, so that it is read when it is whole; it is given where it is asked for."""
    head, half, rest = ("sku,n\nA,1\n", "A,2", "00\nA,3\n") if "csv" in name else ('{"n":1}\n', '{"n":2}', "\n")
    path = write(name, encoded(name, head + half))
    with JobFile(JobFormat(path=path)) as file:
        (given,) = file.read(holds_back=True)
        point = file.read_point
        (last,) = file.build_unended()
        assert isinstance(last, Job)
        assert (last.position.line, point.offset) == (given.position.line + 1, len(head))
    write(name, encoded(name, head + half + rest))
    with JobFile(JobFormat(path=path)) as file:
        assert file.is_as_read(point)
        made = [one for one in file.read(point, holds_back=True) if one.position.offset >= point.offset]
        assert file.unended is None
        assert made[0].position == replace(last.position, length=len((half + rest).split("\n")[0]) + 1)


def test_a_file_that_is_open_for_writing_may_grow(write: Write) -> None:
    """Its last line is not judged before the start, and one that has changed since it was read may grow, too."""
    path = write("jobs.jsonl", b'{"n":1}\n{"n":')
    with JobFile(JobFormat(path=path)) as file:
        assert len(file.check_head()) == 1
        with path.open("ab") as writer:
            assert file.check_head() == []
            list(file.read(holds_back=True))
            since = file.last_change()
            assert file.may_grow(since)
        assert not file.may_grow(since)
        with path.open("ab") as writer:
            writer.write(b"2}\n")
        assert file.may_grow(since)
        assert file.may_grow(file.last_change())


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOENT, "was moved or removed while this batch used it; put it back"),
        (errno.EIO, "cannot be read any further: Input/output error"),
        (errno.EMFILE, "too many open files: the limit of [0-9,]+ is reached. Raise it"),
    ],
)
def test_a_file_that_cannot_be_opened_again_is_trouble_of_this_machine(
    write: Write, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    """It is no error of the file; only one that is missing from the beginning is, or may not be read."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with JobFile(JobFormat(path=write("jobs.jsonl", b'{"n":1}\n'))) as file:
        monkeypatch.setattr(text_source, "open_bytes", refuse)
        with pytest.raises(JobFileLost, match=f"jobs.jsonl: {said}"):
            list(file.read())
        with pytest.raises(JobFileLost if number == errno.EMFILE else JobFileError):
            JobFile(JobFormat(path=write("jobs.jsonl", b'{"n":1}\n')))


def test_a_changed_line_is_named_when_it_is_read_again(write: Write) -> None:
    """An open job of the ledger is not silently replaced by another."""
    path = write("jobs.jsonl", b'{"n":1}\n{"n":2}\n')
    positions = [job.position for job in jobs(path)]
    for content, line in (
        (b'{"n":1}\n["n",2]\n', 2),
        (b'{"n":1}\n', 2),
        (b'{"n":100}\n{}\n', 1),
        (b'{}\n    \n{"n":2}\n', 1),
    ):
        write("jobs.jsonl", content)
        with JobFile(JobFormat(path=path)) as file, pytest.raises(JobFileError) as caught:
            list(file.reread(positions))
        assert (caught.value.line, "was changed after" in caught.value.problem) == (line, True)
    packed = write("jobs.jsonl.gz", gzip.compress(b'{"n":1}\n'))
    with JobFile(JobFormat(path=packed)) as file, pytest.raises(JobFileError, match=r":2: .*not there any more"):
        list(file.reread(positions))


def test_the_head_is_checked_without_moving_the_read_point(write: Write) -> None:
    """Bad lines, keys that repeat with other content, and lost nested fields are known before anything starts."""
    path = write(
        "jobs.jsonl",
        b'{"@key":"a","p":{"x":1}}\n{"@key":"a","p":{"x":1}}\n{"@key":"a","p":{"x":2}}\n[]\n{"q":{"z":{}},"r":null}\n',
    )
    task_input = {"p": {"x": 0, "y": 0}, "q": {"z": {"deep": 1}}, "r": {"x": 1}, "s": {"x": 1}}
    with JobFile(JobFormat(path=path, task_input=task_input)) as file:
        advice = 'give this line another @key, or "@replaces": true if it mends that line'
        assert [(bad.position.line, bad.reason) for bad in file.check_head()] == [
            (3, f"key 'a' stands on line 1 with other content; {advice}"),
            (4, 'is a JSON array; each line must be an object like {"url": "https://example.com"}'),
        ]
        assert file.lost_fields == ("p", "q")
        assert file.read_point == ReadPoint()
        assert file.count_estimate() == 5


def test_the_head_ends_after_ten_thousand_lines(write: Write) -> None:
    """Later bad lines are recorded by the running batch."""
    path = write("jobs.jsonl", b"{}\n" * 9_999 + b"[]\n[]\n")
    with JobFile(JobFormat(path=path)) as file:
        assert [bad.position.line for bad in file.check_head()] == [10_000]
        assert file.count_estimate() == 10_001


def test_utf_16_is_recognised_by_its_byte_order_mark(write: Write) -> None:
    """It is converted while reading: not seekable, but the jobs are the same."""
    text = '{"a":"é😀"}\n{"a":2}\n'
    for encoding, named in (("utf-16", None), ("utf-16-le", "utf-16-le"), ("utf-8-sig", None), ("utf-8", "utf8")):
        path = write("jobs.jsonl", text.encode(encoding))
        assert bodies(path, encoding=named) == [{"a": "é😀"}, {"a": 2}]
    cut = write("jobs.jsonl", text.encode("utf-16")[:-1])
    assert "is damaged or not in the encoding" in refusal(cut)


@given(st.binary(max_size=300), st.sampled_from(["jsonl", "json", "csv", "tsv", "jsonl.gz", "csv.zst"]))
def test_any_bytes_give_jobs_bad_lines_or_our_errors(write: Write, content: bytes, suffix: str) -> None:
    """No other exception comes out."""
    path = write(f"jobs.{suffix}", content)
    with suppress(JobFileError):
        read_all(path)


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("https://e.com/jobs.csv", "curl -LO https://e.com/jobs.csv"),
        ("s3://bucket/jobs.jsonl", "aws s3 cp s3://bucket/jobs.jsonl ."),
        ("gs://b/j.json", "gcloud storage cp gs://b/j.json ."),
        ("az://b/j.csv", "azcopy copy az://b/j.csv ."),
    ],
)
def test_an_address_is_refused_with_the_command_that_downloads_it(tmp_path: Path, address: str, command: str) -> None:
    """Also where it was taken for a path below a directory."""
    for path in (Path(address), tmp_path / address):
        with pytest.raises(JobFileError) as caught:
            JobFile(JobFormat(path=path))
        problem = "is an address, and job files are read from this machine; first: "
        assert str(caught.value) == f"{address}: {problem}{command}"


@pytest.mark.parametrize(("name", "is_one"), [("A.CSV", True), ("a.JSONL.GZ", True), ("a.xlsx", False), ("csv", False)])
def test_endings_count_in_any_case(name: str, is_one: bool) -> None:
    """Other systems write them in capitals."""
    assert is_job_file(name) is is_one


def test_a_file_with_a_long_window_is_read(write: Write) -> None:
    """`zstd --long=31` writes windows larger than a decoder takes by default."""
    # RFC 8878: a frame with a window of 2^28 bytes, and one last raw block. A compressor takes seconds for the window.
    packed = b"\x28\xb5\x2f\xfd\x00\x90" + (8 << 3 | 1).to_bytes(3, "little") + b'{"n":1}\n'
    path = write("long.jsonl.zst", packed)
    with JobFile(JobFormat(path=path)) as file:
        assert [job.body for job in file.read() if isinstance(job, Job)] == [b'{"n":1}']
    assert "needs more memory to be decompressed than jobs.max_window_mb" in refusal(path, max_window_bytes=8 << 20)
    second = write("second.jsonl.zst", zstandard.compress(b'{"n":"%b"}\n' % (b"x" * 100_000) * 16) + packed)
    assert "needs more memory" in refusal(second, max_window_bytes=8 << 20)


@pytest.mark.parametrize(
    ("name", "head", "text"),
    [
        ("jobs.jsonl", b'{"n":1}\n', b"a" * (1 << 20)),
        ("jobs.jsonl", b'{"n":1}\n', b" " * 32_767 + b"\n"),
        ("jobs.csv", b"n,m\n1,\n", b"a" * (1 << 20)),
        ("jobs.csv", b"n,m\n1,\n", b"," + b" " * 32_766 + b"\n"),
    ],
)
def test_a_text_without_jobs_is_read_no_further(
    write: Write, monkeypatch: pytest.MonkeyPatch, name: str, head: bytes, text: bytes
) -> None:
    """Some KB can unfold to terabytes of one line, or of blank lines; what comes before them are jobs."""
    monkeypatch.setattr(skipped_lines, "_MAX_ROWLESS_BYTES", 4 << 20)
    text *= (24 << 20) // len(text)
    path = write(f"{name}.zst", zstandard.compress(head) + zstandard.compress(text) + zstandard.compress(b"\n2\n"))
    with JobFile(JobFormat(path=path)) as file:
        entries = file.read()
        assert isinstance(next(entries), Job)
        with pytest.raises(JobFileError, match="goes on for 1 GB without a job"):
            next(entries)


@pytest.mark.parametrize("priorities", [b"", b',"@priority":1'])
def test_a_limit_counts_from_the_top_to_the_last_line(write: Write, priorities: bytes) -> None:
    """Also where lines are read ahead: a last line without line end is none that waits, if it is beyond the limit."""
    path = write("jobs.jsonl", b'{"n":1%b}\n{"n":2}\n{"n":3}' % priorities)
    with JobFile(JobFormat(path=path)) as file:
        assert (len(list(file.read(holds_back=True, limit=2))), file.unended, file.count_estimate()) == (2, None, 0)
        assert len(list(file.read(file.read_point, holds_back=True, limit=3))) == 2
        held_back = file.unended
        assert held_back is not None
        assert len(list(file.build_unended())) == 1
        assert file.unended is None, "the limit is reached"
        assert len(list(file.read())) == 3
