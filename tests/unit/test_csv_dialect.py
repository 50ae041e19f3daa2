"""Which delimiter and quotes a CSV file has; what leaves doubt is asked."""

import csv
import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from batchrun.errors import BatchrunError, ConfigError, JobFileError
from batchrun.jobs import JobFile, JobFormat
from batchrun.model import BadLine, Job

#: Characters that dialects give a meaning, and a few that mean nothing.
hostile = st.text(st.sampled_from(",;\t|\"'\\\r\n ab1:é"), max_size=6)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    width = draw(st.integers(1, 3))
    # A single column named `a,b` is, byte for byte, what another dialect makes of two columns.
    names = (
        st.text(st.sampled_from(",;\t|\"'\\ abc" if width > 1 else "\"'\\ abc"), min_size=1, max_size=6)
        .map(str.strip)
        .filter(bool)
    )
    header = draw(st.lists(names, min_size=width, max_size=width, unique=True))
    rows = draw(st.lists(st.lists(hostile, min_size=width, max_size=width), min_size=1, max_size=5))
    return [header, *rows]


@st.composite
def dialects(draw: st.DrawFn) -> dict[str, Any]:
    quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONE]))
    doubles = quoting != csv.QUOTE_NONE and draw(st.booleans())
    return {
        "delimiter": draw(st.sampled_from(",;\t|")),
        "quotechar": draw(st.sampled_from("\"'")),
        "quoting": quoting,
        "doublequote": doubles,
        "escapechar": None if doubles else "\\",
        "lineterminator": draw(st.sampled_from(["\n", "\r\n", "\r"])),
    }


def read_or_refuse(path: Path, **format_settings: Any) -> list[tuple[tuple[str, ...], tuple[str, ...]]] | None:
    """Return names and cells of every row; None if opening or the check of the head refuses the file."""
    try:
        with JobFile(JobFormat(path=path, **format_settings)) as file:
            if file.check_head():
                return None
            bodies = [orjson.loads(job.body) for job in file.read() if isinstance(job, Job)]
    except BatchrunError:
        return None
    return [(tuple(body), tuple(body.values())) for body in bodies]


@settings(max_examples=50)
@given(tables(), dialects(), st.sampled_from(["jobs.csv", "jobs.tsv"]))
def test_a_table_in_any_dialect_is_read_back_or_refused(
    tmp_path: Path, table: list[list[str]], dialect: dict[str, Any], name: str
) -> None:
    """Whatever dialect wrote it, no cell is read as anything else than was written, blanks around it aside."""
    text = io.StringIO(newline="")
    try:
        csv.writer(text, **dialect).writerows(table)
    except csv.Error:
        reject()  # the dialect cannot write this table
    if list(csv.reader(io.StringIO(text.getvalue(), newline=""), **dialect)) != table:
        reject()  # nor read it back
    path = tmp_path / name
    path.write_bytes(text.getvalue().encode())
    names = tuple(cell.strip() for cell in table[0])
    written = [(names, tuple(cell.strip() for cell in row)) for row in table[1:] if any(map(str.strip, row))]
    assert read_or_refuse(path) in (None, written)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("a,b\n1,x;y\n2,z\n", [{"a": "1", "b": "x;y"}, {"a": "2", "b": "z"}]),
        ("name;first, last\n1;x\n", [{"name": "1", "first, last": "x"}]),
        ("a|b\n1|x,y\n", [{"a": "1", "b": "x,y"}]),
        ("sep=|\r\na|b,c\r\n1|2,3\r\n", [{"a": "1", "b,c": "2,3"}]),
        ('\ufeffSEP=;\n"a";"b"\n1;2\n', [{"a": "1", "b": "2"}]),
        ("a,b,,\n1,2,,\n3,4\n5,6,\n", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}, {"a": "5", "b": "6"}]),
        ('sku, "name", note\na, "x, y", hello\n', [{"sku": "a", "name": "x, y", "note": "hello"}]),
        ("\ufeff\ufeffurl,x\n u ,1\n", [{"url": "u", "x": "1"}]),
        ('path,q\n\\\\host\\share,"{""a"": ""\\""x\\""""}"\n', [{"path": "\\\\host\\share", "q": '{"a": "\\"x\\""}'}]),
        ("dish\nO'Brien's 'best'\n'tis\n", [{"dish": "O'Brien's 'best'"}, {"dish": "'tis"}]),
        ('a,b\n1,"x\ny"\n2,z\n', [{"a": "1", "b": "x\ny"}, {"a": "2", "b": "z"}]),
        ('a,b\n1,12" disc\n2,z\n', [{"a": "1", "b": '12" disc'}, {"a": "2", "b": "z"}]),
    ],
)
def test_a_file_without_doubt_is_read(tmp_path: Path, content: str, rows: list[dict[str, str]]) -> None:
    """Header and rows together show the delimiter; empty columns at the end and blanks around cells mean nothing."""
    path = tmp_path / "jobs.csv"
    path.write_text(content, "utf-8", newline="")
    with JobFile(JobFormat(path=path)) as file:
        assert file.check_head() == []
        assert [orjson.loads(job.body) for job in file.read() if isinstance(job, Job)] == rows


@pytest.mark.parametrize(
    ("name", "content", "question"),
    [
        (
            "tie.csv",
            "sku;price, EUR\na1;1,5\n",
            (
                'jobs.delimiter = ",": "sku;price" | "EUR"; line 2: "a1;1" | "5"\n'
                '  jobs.delimiter = ";": "sku" | "price, EUR"; line 2: "a1" | "1,5"'
            ),
        ),
        (
            "quote.tsv",
            'id\tname\n1\t"a\n2\tb"\n3\tc\n',
            (
                'jobs.quote = "\\"": "id" | "name"; line 2: "1" | "a\\n2\\tb"\n'
                '  jobs.quote = "none": "id" | "name"; line 2: "1" | "\\"a"'
            ),
        ),
        (
            "single.csv",
            "'a','b'\n'1','2'\n",
            (
                'jobs.quote = "\\"": "\'a\'" | "\'b\'"; line 2: "\'1\'" | "\'2\'"\n'
                '  jobs.quote = "\'": "a" | "b"; line 2: "1" | "2"'
            ),
        ),
        (
            "escaped.csv",
            'a,b\n1,x\\"\n',
            (
                'jobs.quote = "\\"": "a" | "b"; line 2: "1" | "x\\\\\\""\n'
                "  not at all, if backslashes escape; write a quote inside a cell twice, and cells with delimiters in"
                ' quotes: "a" | "b"; line 2: "1" | "x\\""'
            ),
        ),
    ],
)
def test_in_doubt_the_author_is_asked(tmp_path: Path, name: str, content: str, question: str) -> None:
    """The question shows each reading and its setting; with that setting the file is read so."""
    path = tmp_path / name
    path.write_text(content, "utf-8")
    with pytest.raises(JobFileError) as caught:
        JobFile(JobFormat(path=path))
    assert str(caught.value) == f"{path}: can be read in more than one way; say which one is meant:\n  {question}"
    JobFile(JobFormat(path=path, asks_in_doubt=False)).close()


def test_the_answer_is_taken(tmp_path: Path) -> None:
    """`jobs.delimiter` and `jobs.quote` settle what the head leaves open."""
    tie, quote = tmp_path / "tie.csv", tmp_path / "quote.tsv"
    tie.write_text("sku;price, EUR\na1;1,5\n")
    quote.write_text('id\tname\n1\t"a\n2\tb"\n')
    single = tmp_path / "single.csv"
    single.write_text("'a','b'\n'1, 2','2'\n")
    assert read_or_refuse(tie, delimiter=";") == [(("sku", "price, EUR"), ("a1", "1,5"))]
    assert read_or_refuse(quote, quote="none") == [(("id", "name"), ("1", '"a')), (("id", "name"), ("2", 'b"'))]
    assert read_or_refuse(quote, quote='"') == [(("id", "name"), ("1", "a\n2\tb"))]
    assert read_or_refuse(single, quote="'") == [(("a", "b"), ("1, 2", "2"))]


def test_one_column_or_two_is_asked(tmp_path: Path) -> None:
    """A mark that the name and every row hold as often may be a delimiter that is not looked for."""
    path = tmp_path / "jobs.csv"
    path.write_text("id:name\n1:a\n2:b\n")
    assert read_or_refuse(path) is None
    assert read_or_refuse(path, delimiter=":") == [(("id", "name"), ("1", "a")), (("id", "name"), ("2", "b"))]
    path.write_text("id:name\n1:a\n2\n")
    assert read_or_refuse(path) == [(("id:name",), ("1:a",)), (("id:name",), ("2",))]


@pytest.mark.parametrize("row", ["https://e.com/a", "12,5", "a@e.com,1"])
def test_a_first_row_of_data_is_no_header(tmp_path: Path, row: str) -> None:
    """Addresses and numbers name no columns."""
    path = tmp_path / "jobs.csv"
    path.write_text(f"{row}\n{row}\n")
    with pytest.raises(JobFileError, match=r"the first row looks like data .*; write a row of names before it"):
        JobFile(JobFormat(path=path))


def test_a_name_that_is_almost_an_address_is_read_at_once(tmp_path: Path) -> None:
    """Whether 60 KB of dots and at signs are an address took hours once, with the whole process standing still."""
    path = tmp_path / "jobs.csv"
    path.write_text(f"a{'@.' * 30_000} x\n1\n")
    with JobFile(JobFormat(path=path)) as file:
        assert [type(each).__name__ for each in file.read()] == ["Job"]


@pytest.mark.parametrize("name", ["jobs.csv", "jobs.jsonl", "jobs.json"])
def test_a_web_page_is_no_job_file(tmp_path: Path, name: str) -> None:
    """A download that needed a sign-in often is one."""
    path = tmp_path / name
    path.write_text('\ufeff<!DOCTYPE html>\n<html lang="en">\n', "utf-8")
    with pytest.raises(JobFileError, match="is a web page"):
        JobFile(JobFormat(path=path))


@pytest.mark.parametrize("quote", ["", "ab", "\n"])
def test_a_quote_is_one_character_or_none(tmp_path: Path, quote: str) -> None:
    """Anything else is an error of the configuration, and so is a delimiter that quotes."""
    path = tmp_path / "jobs.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"jobs\.quote: must be one character"):
        JobFile(JobFormat(path=path, quote=quote))
    with pytest.raises(ConfigError, match=r"jobs\.delimiter: '\"' is the character that quotes cells"):
        JobFile(JobFormat(path=path, delimiter='"'))


def test_a_header_that_returns_is_a_bad_line(tmp_path: Path) -> None:
    """Files that were joined bring their headers, and byte order marks, along."""
    path = tmp_path / "jobs.csv"
    path.write_bytes(b"country,sku\nde,a1\n\xef\xbb\xbfcountry, sku\nuk,b2\n")
    with JobFile(JobFormat(path=path)) as file:
        (bad,) = file.check_head()
        assert (bad.position.line, bad.reason) == (
            3, "repeats the header; leave out the header of each file but the first when you join files",
        )  # fmt: skip
        assert [type(one) for one in file.read()] == [Job, BadLine, Job]


def test_a_long_sample_is_cut_without_harm(tmp_path: Path) -> None:
    """A cell with line ends at the end of the sample is no bad row of the right dialect."""
    path = tmp_path / "jobs.csv"
    path.write_text("a;b,c\n" + f"1;{'y' * 200}\n" * 1_200 + '3;"' + "x\n" * 100_000 + '"\n4;5\n')
    with JobFile(JobFormat(path=path)) as file:
        assert file.dialect is not None
        assert file.dialect.delimiter == ";"
        assert sum(isinstance(one, Job) for one in file.read()) == 1_202
