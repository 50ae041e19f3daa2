"""Which delimiter and which quotes a CSV file has: decided on its header and the rows after it together.

Each dialect that may be meant is tried on the head of the file. Where two of them read it differently, and neither has
fewer bad rows, the author is asked.
"""

import re
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import NamedTuple

from batchrun.errors import ConfigError, JobFileError, SeveralLines
from batchrun.jobs.csv_rows import NEVER_CLOSED, CsvDialect, csv_rows, named_delimiter, read_header
from batchrun.jobs.job_format import JobFormat
from batchrun.jobs.rows import brief, json_text

#: Bytes, and rows of them, on which the dialect is decided.
SAMPLE_BYTES = 256 << 10
_SAMPLE_ROWS = 2_000

_DELIMITERS = ",;\t|"
#: What a writer that escapes makes: each backslash stands before a character that has a meaning.
_ESCAPED = re.compile(r"""(?:[^\\]|\\["'\\,;\t|\r\n])*+""")
#: Characters that separate nothing, within a name.
_IN_NAMES = re.compile(r"[\w\s.\-'\"]")


class _Table(NamedTuple):
    """The head of a file as one dialect reads it."""

    dialect: CsvDialect
    columns: tuple[str, ...]
    #: The cells of each good row, by its line.
    rows: dict[int, tuple[str, ...]]
    bad_rows: int

    @property
    def content(self) -> object:
        return self.columns, self.rows

    @property
    def is_sound(self) -> bool:
        """True if every row is good, and no cell has quotes at both ends that are ordinary characters."""
        if self.dialect.quote is not None or self.bad_rows:
            return not self.bad_rows
        return not any(
            len(each) > 1 and each[0] == '"' == each[-1] for row in (self.columns, *self.rows.values()) for each in row
        )


def find_dialect(sample: bytes, encoding: str, job_format: JobFormat, *, is_whole: bool) -> CsvDialect:
    """Return the dialect of a file that begins with `sample`, or is it as a whole; what the format sets is kept.

    Raises:
        JobFileError: The file can be read in more than one way, and the format wants to be asked.
        ConfigError: `delimiter` or `quote` is not one character.
    """
    delimiter, quote = _given(job_format)
    text = sample.decode(encoding, "replace")
    delimiter = delimiter or named_delimiter(text)
    usual = [CsvDialect(each, quote, job_format.trim) for each in delimiter or _DELIMITERS]
    if delimiter and job_format.quote is not None:
        return usual[0]
    likely = max(usual, key=lambda each: _count_in_header(text, each.delimiter))
    # A delimiter that does not occur divides nothing, so there is nothing to try.
    usual = [each for each in usual if each == likely or each.delimiter in text]
    tables = [_read(sample, encoding, dialect, is_whole=is_whole) for dialect in usual]
    found = _with_most_rows([table for table in tables if table and len(table.columns) > 1])
    found = found or [table for table in tables if table and table.dialect == likely]
    if job_format.kind == "tsv":
        found = [table for table in found if table.dialect.delimiter == "\t"] or found
    for dialect, table in zip(usual, tables, strict=True) if job_format.quote is None else ():
        for other in _others(dialect, text, table):
            rival = _read(sample, encoding, other, is_whole=is_whole)
            is_new = rival and all(rival.content != each.content for each in (table, *found) if each)
            if rival and is_new and rival.is_sound and (len(rival.columns) > 1 or table in found):
                found.append(rival)
    if not found:
        return likely  # which says what is wrong with the header
    is_certain = len(found) == 1 and found[0].dialect in usual
    problem = _question(found) if not is_certain else "" if delimiter else _one_column_question(found[0])
    if problem and job_format.asks_in_doubt:
        raise JobFileError(problem, file=job_format.name)
    return found[0].dialect if is_certain else likely


def _with_most_rows(tables: list[_Table]) -> list[_Table]:
    most = max((len(table.rows) for table in tables), default=0)
    return [table for table in tables if len(table.rows) == most]


def _given(job_format: JobFormat) -> tuple[str | None, str | None]:
    for key, value in (("jobs.delimiter", job_format.delimiter), ("jobs.quote", job_format.quote)):
        is_none = key == "jobs.quote" and value == "none"
        if value is not None and not is_none and (len(value) != 1 or value in "\r\n\0"):
            example = "';'" if key == "jobs.delimiter" else '\'"\', or "none"'
            raise ConfigError(f"must be one character like {example}, not {value!r}", key=key)
    quote = '"' if job_format.quote is None else job_format.quote
    if job_format.delimiter == quote:
        raise ConfigError(f"{quote!r} is the character that quotes cells; name another one", key="jobs.delimiter")
    return job_format.delimiter, None if quote == "none" else quote


def _read(sample: bytes, encoding: str, dialect: CsvDialect, *, is_whole: bool) -> _Table | None:
    stream = BytesIO(sample)
    rows: dict[int, tuple[str, ...]] = {}
    bad_rows = 0
    try:
        header = read_header(stream, encoding, dialect, "")
        for row in islice(csv_rows(stream, header.end, encoding, header, ""), _SAMPLE_ROWS):
            if row.problem == NEVER_CLOSED and not is_whole:
                break  # the sample may be cut within this row
            if row.data is None:
                bad_rows += 1
            else:
                rows[row.position.line] = tuple(row.data.values())
    except JobFileError:
        return None
    return _Table(dialect, header.columns, rows, bad_rows)


def _others(dialect: CsvDialect, text: str, table: _Table | None) -> Iterator[CsvDialect]:
    """Yield the dialects with other quotes that the text may be written in; `table` is how the dialect reads it."""
    single = dialect._replace(quote="'")
    if "'" in text:
        yield single
    if "\\" in text and _ESCAPED.fullmatch(text):
        yield from (each._replace(escapes=True) for each in (dialect, single))
    if table is not None and any("\n" in cell for cells in table.rows.values() for cell in cells):
        yield dialect._replace(quote=None)


def _question(found: list[_Table]) -> SeveralLines:
    lines = [f"  {_setting(table.dialect, found)}: {_shown(table, found)}" for table in found]
    return SeveralLines(["can be read in more than one way; say which one is meant:", *lines])


def _one_column_question(table: _Table) -> str:
    name = table.columns[0]
    for mark in dict.fromkeys(_IN_NAMES.sub("", name) if len(table.columns) == 1 else ""):
        if table.rows and all(cell.count(mark) == name.count(mark) for (cell,) in table.rows.values()):
            return (
                f"has one column, {brief(name)}, or cells that {mark!r} separates; say which one is meant:"
                f' jobs.delimiter = "," or jobs.delimiter = {json_text(mark)}'
            )
    return ""


def _setting(dialect: CsvDialect, found: list[_Table]) -> str:
    if dialect.escapes:
        return (
            "not at all, if backslashes escape; write a quote inside a cell twice, and cells with delimiters in quotes"
        )
    quote = f"jobs.quote = {json_text(dialect.quote or 'none')}"
    delimiter = f"jobs.delimiter = {json_text(dialect.delimiter)}"
    if len({table.dialect.delimiter for table in found}) == 1:
        return quote
    return delimiter if dialect.quote == '"' else f"{delimiter}, {quote}"


def _shown(table: _Table, found: list[_Table]) -> str:
    others = [other for other in found if other is not table]
    differing = (line for line, cells in table.rows.items() if any(other.rows.get(line) != cells for other in others))
    line = next(differing, next(iter(table.rows), None))
    columns = " | ".join(map(brief, table.columns))
    return columns if line is None else f"{columns}; line {line}: {' | '.join(map(brief, table.rows[line]))}"


def _count_in_header(text: str, delimiter: str) -> int:
    """Return how often a delimiter occurs in the header, outside quotes."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return re.sub(r'"[^"]*"', "", header).count(delimiter)
