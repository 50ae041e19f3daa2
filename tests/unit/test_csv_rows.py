"""CSV and TSV job files: cells, offsets, headers, bad rows."""

import csv
import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import BatchrunError, ConfigError, JobFileError
from batchrun.jobs import JobFile, JobFormat, ReadPoint, csv_rows
from batchrun.jobs.csv_rows import NEVER_CLOSED, NOT_ONE_ROW
from batchrun.jobs.rows import MAX_ROW_BYTES
from batchrun.model import BadLine, Job, Position, RunOptions
from tests.unit.test_job_builder import IS_NO_FIELD

cells = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


def read(folder: Path, content: bytes, name: str = "jobs.csv", **settings: Any) -> list[Job | BadLine]:
    path = folder / name
    path.write_bytes(content)
    with JobFile(JobFormat(path=path, **settings)) as file:
        return list(file.read())


def bodies(folder: Path, content: bytes, name: str = "jobs.csv", **settings: Any) -> list[Any]:
    return [orjson.loads(made.body) for made in read(folder, content, name, **settings) if isinstance(made, Job)]


def reasons(folder: Path, content: bytes) -> list[tuple[int, str]]:
    return [(made.position.line, made.reason) for made in read(folder, content) if isinstance(made, BadLine)]


def refusal(folder: Path, content: bytes, **settings: Any) -> str:
    with pytest.raises(BatchrunError) as caught:
        read(folder, content, **settings)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("name", "content", "delimiter", "override"),
    [
        ("jobs.csv", "a,b\n1,ü\n", None, {"a": "1", "b": "ü"}),
        ("jobs.csv", '"a,b,c";d\n1;2\n', None, {"a,b,c": "1", "d": "2"}),
        ("jobs.csv", "a\tb\n1\t2\n", None, {"a": "1", "b": "2"}),
        ("jobs.tsv", "a\tb,c,d\n1\t2\n", None, {"a": "1", "b,c,d": "2"}),
        ("jobs.csv", "a|b\n1|2,3\n", "|", {"a": "1", "b": "2,3"}),
        ("jobs.csv", "one\n1\n", None, {"one": "1"}),
        ("jobs.CSV", "\ufeffa,b\r\n1,2", None, {"a": "1", "b": "2"}),
        ("jobs.csv", "\n \n a , b \n\n1, 2\n,\n", None, {"a": "1", "b": "2"}),
    ],
)
def test_a_row_is_an_override_of_strings(
    tmp_path: Path, name: str, content: str, delimiter: str | None, override: dict[str, str]
) -> None:
    """The delimiter is found in the header or given; names are trimmed; blank rows are skipped."""
    assert bodies(tmp_path, content.encode(), name, delimiter=delimiter) == [override]


def test_positions_are_right_with_line_ends_in_cells(tmp_path: Path) -> None:
    """A row's line is the one where it begins; its offset and length cover the whole row."""
    content = b'\xef\xbb\xbfa,b\r\n1,"x\r\n\r\ny"\r\n\r\n2,"say ""hi"""\n3,z'
    assert [(made.position, made.body) for made in read(tmp_path, content) if isinstance(made, Job)] == [
        (Position(line=2, offset=8, length=12), b'{"a":"1","b":"x\\r\\n\\r\\ny"}'),
        (Position(line=6, offset=22, length=15), b'{"a":"2","b":"say \\"hi\\""}'),
        (Position(line=7, offset=37, length=3), b'{"a":"3","b":"z"}'),
    ]


@given(
    st.lists(st.tuples(cells, cells, cells), max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_what_was_written_is_read_and_found_again(
    tmp_path: Path, rows: list[tuple[str, str, str]], delimiter: str, end: str, encoding: str
) -> None:
    """Any cells come back; any read point goes on with exactly the rest; any position gives its job again."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("n", "a\nb", "c"), *rows])
    path = tmp_path / "jobs.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    # Without the quote, a person is asked about cells that a backslash might escape.
    with JobFile(JobFormat(path=path, trim=False, quote='"')) as file:
        made, points = [], [file.read_point]
        for job in file.read():
            assert isinstance(job, Job)
            made.append(job)
            points.append(file.read_point)
        assert [tuple(orjson.loads(job.body).values()) for job in made] == [
            row for row in rows if any(cell.strip() for cell in row)
        ]
        assert list(file.reread([job.position for job in made])) == made
        for number, point in enumerate(points):
            assert list(file.read(point)) == made[number:]


@pytest.mark.parametrize("title", [b"Web shops 2026;;", b"Web shops; 2026"])
def test_a_title_above_the_names_is_recognised(tmp_path: Path, title: bytes) -> None:
    """Where most rows have another number of cells than the first line, it is no cell that lacks quotes."""
    advice = "the first line must hold the names of the columns: delete the lines above them"
    found = reasons(tmp_path, title + b"\n\nSKU;Web Site;Country\n1;https://a.example;DE\n2;https://b.example;FR\n")
    assert [(line, reason.partition("; ")[2]) for line, reason in found] == [(3, advice), (4, advice), (5, advice)]
    named = refusal(tmp_path, title + b"\n\nSKU;URL;Country\n1;u;DE\n", key="{{SKU}}")
    assert named.endswith(advice), named
    ((line, reason),) = reasons(tmp_path, b"a;b\n" + b"1;2\n" * 5 + b"1;2;3\n")
    assert (line, reason.partition("; ")[2]) == (7, "put a cell that holds ';' in quotes")


def test_a_row_that_does_not_fit_is_a_bad_line(tmp_path: Path) -> None:
    """Ragged, broken and damaged rows are reported, and the rows after them are read."""
    content = b'a,b\n1\n1,2,3\n"x"y,2\n\0,2\n\xe9,2\nx\ry,2\n4,5\n'
    too_few = (
        "has 1 cell where the header names 2 columns; complete or delete the line, or put a cell that holds a line"
        " end in quotes"
    )
    assert reasons(tmp_path, content.replace(b"\0", b"")) == [
        (2, too_few),
        (3, "has 3 cells where the header names 2 columns; put a cell that holds ',' in quotes"),
        (4, "is not CSV: ',' expected after '\"'; write a quote inside a quoted cell twice"),
        (
            6,
            'is not UTF-8 (byte 0xe9 at position 1); convert the file, or name its encoding: jobs.encoding = "cp1252"',
        ),
        (7, "holds a bare carriage return; put the cell in quotes, or convert the file's line ends"),
    ]
    behind = b"a,b\n" + b"1,2\n" * 2000 + b"\0,2\n3,4\n"
    assert reasons(tmp_path, behind) == [(2002, "holds a NUL byte; the file may be damaged: write it again")]
    assert bodies(tmp_path, behind)[-1] == {"a": "3", "b": "4"}


@pytest.mark.parametrize(
    ("content", "lines", "reason"),
    [
        (b'a,b\n1,2\n3,"x\n4,5\n6,7\n', (2, 3, 4, 5), NEVER_CLOSED),
        (b'a,b\n3,"x\n4,"y"\n6,7\n', (2, 3, 4), NOT_ONE_ROW),
        (b'a,b\n3,"x\n4,say 7",2\n6,7\n', (2, 3, 4), NOT_ONE_ROW),
        (b'a,b\n3,"x\n4,\xe9\n6,7\n', (2, 3, 4), "is not UTF-8 (byte 0xe9 at position 3)"),
    ],
)
def test_a_quote_that_is_never_closed_costs_its_line(
    tmp_path: Path, content: bytes, lines: tuple[int, ...], reason: str
) -> None:
    """The lines after it are rows; each line and byte is read once."""
    made = read(tmp_path, content)
    assert tuple(one.position.line for one in made) == lines
    assert content[4:] == b"".join(
        content[one.position.offset : one.position.offset + one.position.length] for one in made
    )
    first_bad = next(one for one in made if isinstance(one, BadLine))
    assert first_bad.reason.startswith(reason)
    assert first_bad.content == '3,"x'


def test_many_quotes_that_are_never_closed_are_not_looked_for_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would cost a look at all lines after it: for hours in a file of some hundred KB. No row is torn instead."""
    monkeypatch.setattr(csv_rows, "_MAX_AGAIN_BYTES", 20_000)
    given: list[str] = []
    give = csv_rows._Lines.__next__

    def counted(lines: csv_rows._Lines) -> str:
        given.append(give(lines))
        return given[-1]

    monkeypatch.setattr(csv_rows._Lines, "__next__", counted)
    refused = refusal(tmp_path, b"a,b\n" + b'a","""\n' * 1_000 + b'1,"2\n3"\n')
    assert refused.startswith("jobs.csv:3: opens a quote that is not closed on this line, as so many lines before it")
    assert len(given) < 10_000, "not 500,000"


def test_a_quote_that_is_never_closed_costs_no_more_in_a_large_file(tmp_path: Path) -> None:
    """Sixteen megabytes after it, it counts as never closed; the lines within are rows."""
    line = b"y" * 999_999 + b",\n"
    count = MAX_ROW_BYTES // len(line) + 1
    made = read(tmp_path, b'a,b\n3,"x\n' + line * count + b"4,5\n")
    assert isinstance(made[0], BadLine)
    assert made[0].reason == (
        "is longer than 16,777,216 bytes and was skipped; look for a quote that is opened in this row and never closed"
    )
    assert [one.position.line for one in made] == list(range(2, count + 4))
    assert all(isinstance(one, Job) for one in made[1:])


def test_a_row_of_very_many_lines_counts_as_never_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen megabytes of lines of one character would take a gigabyte."""
    monkeypatch.setattr(csv_rows, "MAX_ROW_LINES", 3)
    made = read(tmp_path, b'a,b\n3,"x\n1,2\n1,2\n1,2\n')
    assert isinstance(made[0], BadLine)
    assert made[0].reason.startswith("is longer than 3 lines and was skipped; look for a quote")
    assert [one.position.line for one in made] == [2, 3, 4, 5]


def test_an_endless_line_inside_a_quote_is_skipped_once(tmp_path: Path) -> None:
    """The line that is too long is given again as a row, and is a bad line, too; the next one is read."""
    made = read(tmp_path, b'a,b\n3,"x\n' + b"y" * (MAX_ROW_BYTES + 9) + b"\n4,5\n")
    assert [(one.position.line, one.position.length, type(one)) for one in made] == [
        (2, 5, BadLine),
        (3, MAX_ROW_BYTES + 10, BadLine),
        (4, 4, Job),
    ]


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    """The limit of 128 KB of the csv module is lifted."""
    assert bodies(tmp_path, b"a\n" + b"x" * 1_000_000 + b"\n") == [{"a": "x" * 1_000_000}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b,a\n1,2,3\n", "jobs.csv:1: two columns are named 'a'; rename one"),
        (b"a," * 16_384 + b"b\n", "jobs.csv:1: the first row names 16,385 columns; at most 16,384 are read"),
        (b"\na,,c\n", "jobs.csv:2: column 2 has no name; the first row must name every column"),
        (b'a,"b\n1,2\n', "jobs.csv:2: the header is not CSV: unexpected end of data"),
        (
            b"\"\r',\"\n'\r",
            "jobs.csv:1: the header holds a carriage return alone; convert the line ends: tr '\\r' '\\n' < FILE",
        ),
        (b"a,@kye\n1,2\n", f"jobs.csv:1: column '@kye' {IS_NO_FIELD}"),
        (
            b"a,\xe9\n",
            (
                "jobs.csv:1: the header is not CSV: is not UTF-8 (byte 0xe9 at position 3); "
                'convert the file, or name its encoding: jobs.encoding = "cp1252"'
            ),
        ),
    ],
)
def test_an_unfit_header_is_refused_at_once(tmp_path: Path, content: bytes, message: str) -> None:
    """The header is read when the file is opened."""
    assert refusal(tmp_path, content) == message


@pytest.mark.parametrize("delimiter", ["", ";;", "\n", "\0"])
def test_a_delimiter_is_one_character(tmp_path: Path, delimiter: str) -> None:
    """Anything else is an error of the configuration."""
    message = f"jobs.delimiter: must be one character like ';', not {delimiter!r}"
    assert refusal(tmp_path, b"a,b\n", delimiter=delimiter) == message


def test_columns_may_be_at_fields(tmp_path: Path) -> None:
    """They are taken out of the override; an empty cell means no field."""
    content = b'a,@key,@group,@priority,@options,@meta\n1,k1,g,5,"{""timeout_s"":0}","[1]"\n2,k2,,,,\n'
    first, second = read(tmp_path, content, look_ahead=1)
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    assert (first.key, first.group, first.priority, first.options, first.meta, first.body) == (
        "k1", "g", 5, RunOptions(timeout_s=0), [1], b'{"a":"1"}',
    )  # fmt: skip
    assert (second.key, second.group, second.priority, second.options, second.meta, second.body) == (
        "k2", None, 0, None, None, b'{"a":"2"}',
    )  # fmt: skip
    unfit = b"@key,@priority,@options\n,1,{}\nk,1.5,{}\nk,1,{\nk,sk-live-1,\nk,,sk-live-1\n"
    assert [reason for _, reason in reasons(tmp_path, unfit)] == [
        "the key is empty; give each line its own, or leave it out to derive it from the content",
        "column '@priority' must hold a whole number, not \"1.5\"",
        "column '@options' must hold JSON, not \"{\"",
        "column '@priority' must hold a whole number, not text of length 9",
        "column '@options' must hold JSON, not text of length 9",
    ]


def test_an_unknown_column_is_an_error_before_any_start(tmp_path: Path) -> None:
    """The error names the key that uses it, and the columns of the file."""
    for where, asked in (
        ("jobs.template.u.0", {"template": {"u": ["{{c}}"]}}),
        ("jobs.key", {"key": "{{c}}"}),
        ("jobs.group", {"group": "{{c?}}"}),
        ("jobs.meta", {"meta": ("c",)}),
    ):
        assert refusal(tmp_path, b"a,b,@key\n", **asked) == f"{where}: jobs.csv has no column 'c'; it has a, b"


def test_one_byte_encodings_keep_their_offsets(tmp_path: Path) -> None:
    """A file in cp1252 is seekable, like one in UTF-8."""
    path = tmp_path / "jobs.csv"
    path.write_bytes("größe;b\nä;ö\nü;ß\n".encode("cp1252"))
    with JobFile(JobFormat(path=path, encoding="cp1252")) as file:
        _, second = file.read()
        assert isinstance(second, Job)
        assert file.is_seekable
        assert second.position == Position(line=3, offset=12, length=4)
        assert list(file.reread([second.position])) == [second]
        assert list(file.read(ReadPoint(offset=12, line=2))) == [second]
        assert file.count_estimate() == 2


def test_errors_of_the_header_name_the_file(tmp_path: Path) -> None:
    """An error of the file names the file, an error of the configuration its key."""
    path = tmp_path / "jobs.csv"
    path.write_bytes(b"a,a\n")
    with pytest.raises(JobFileError) as of_file:
        JobFile(JobFormat(path=path))
    assert (of_file.value.file, of_file.value.line) == (str(path), 1)
    path.write_bytes(b"a,b\n")
    with pytest.raises(ConfigError) as of_config:
        JobFile(JobFormat(path=path, template={"x": "{{c}}"}))
    assert of_config.value.key == "jobs.template.x"


def test_a_row_that_is_half_written_is_left_for_later(tmp_path: Path) -> None:
    """A quote that is open at the end of the file may be closed by what comes: position and hash stay before it."""
    path = tmp_path / "jobs.csv"
    path.write_bytes(b'a,b\n1,2\n3,"x\n4,5\n')
    with JobFile(JobFormat(path=path)) as file:
        assert [one.position.line for one in file.read(holds_back=True)] == [2]
        point = file.read_point
        assert (point.offset, point.line, file.unended is not None) == (8, 2, True)
        assert [(type(one), one.position.line) for one in file.build_unended()] == [(BadLine, 3), (Job, 4)]
    path.write_bytes(b'a,b\n1,2\n3,"x\n4,5\ny"\n6,7\n')
    with JobFile(JobFormat(path=path)) as file:
        assert file.is_as_read(point)
        jobs = [one for one in file.read(point, holds_back=True) if isinstance(one, Job)]
        assert [job.body for job in jobs] == [b'{"a":"3","b":"x\\n4,5\\ny"}', b'{"a":"6","b":"7"}']


def test_the_hash_covers_what_was_read_and_no_more(tmp_path: Path) -> None:
    """Lines that were read ahead of a row, skipped or blank, are hashed in their turn."""
    path = tmp_path / "jobs.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\n\n3,"x\n,\n4,"y"\n' + b"z" * (MAX_ROW_BYTES + 5) + b"\n6,7\n")
    with JobFile(JobFormat(path=path)) as file:
        points = [file.read_point for _ in file.read()]
        assert [point.line for point in points] == [3, 5, 6, 7]
    with JobFile(JobFormat(path=path)) as again:
        assert [again.is_as_read(point) for point in points] == [True] * 4
