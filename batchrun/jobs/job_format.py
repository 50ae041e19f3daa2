"""How one job file is read: its format, and how its rows become overrides."""

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path, PurePath
from typing import Any, Literal

from batchrun.errors import JobFileError
from batchrun.model import JsonObject
from batchrun.runtime.fast_dataclasses import dataclass

Kind = Literal["jsonl", "json", "csv", "tsv"]
Compression = Literal["none", "gz", "zst"]

_KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}
#: Formats that are not read, and a command that makes one of ours of them.
_CONVERTED = {
    ".parquet": "duckdb -c \"COPY (FROM '{name}') TO 'jobs.jsonl'\"",
    ".xlsx": "duckdb -c \"COPY (FROM read_xlsx('{name}', all_varchar = true)) TO 'jobs.csv'\"",
    ".xls": "open it in a spreadsheet first",
    ".ods": "open it in a spreadsheet first",
}
#: The rest of a path that holds an address. `Path` makes one slash of two.
_ADDRESS = re.compile(r"(?:^|/)(https?|s3|gs|az|abfss?|ftp):/+(.*)")
#: Commands that download a file, by the scheme of its address.
_DOWNLOADS = {"s3": "aws s3 cp {} .", "gs": "gcloud storage cp {} .", "az": "azcopy copy {} .", "http": "curl -LO {}"}


def is_job_file(name: str) -> bool:
    """True if a file's name ends like a job file's."""
    plain = PurePath(name)
    return (PurePath(plain.stem) if plain.suffix.lower() in _COMPRESSIONS else plain).suffix.lower() in _KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFormat:
    """How to read one job file.

    A job key that is derived from content covers the override with its constants and its matrix columns, before a deep
    merge. So a change of `constants` makes new jobs of all lines without a given key; a change of the task's input
    does not.
    """

    #: The file, or "-" for standard input.
    path: Path | Literal["-"]
    #: A file with the same content, which is read in its place; None: there is none.
    copy: Path | None = None
    #: The kind of rows; None: by the name, JSON lines on standard input.
    rows: Kind | None = None
    #: Most memory that decompressing zstd may take; 2 GB are the most that `zstd --long` makes a file need.
    max_window_bytes: int = 1 << 31
    #: None: UTF-8, or UTF-16 where a byte order mark says so.
    encoding: str | None = None
    #: One character; None: found in the head of a .csv, a tab in a .tsv.
    delimiter: str | None = None
    #: One character, or "none" where quotes are ordinary characters; None: a double quote, if the head leaves no doubt.
    quote: str | None = None
    #: Whether blanks around the cells of a CSV file are left out.
    trim: bool = True
    #: Cells that count as empty.
    empty: frozenset[str] = frozenset()
    #: Whether a CSV file that can be read in more than one way is refused; else its header decides.
    asks_in_doubt: bool = True
    #: The override with `{{column}}` in its strings; None: the row itself is the override.
    template: JsonObject | None = None
    #: A template string; without one, or where its optional cell is empty, the key is derived from content.
    key: str | None = None
    #: A template string.
    group: str | None = None
    #: Columns (properties of the line) that are copied to `Job.meta`.
    meta: tuple[str, ...] = ()
    #: Lists whose every combination makes a job of each line; the names are columns.
    matrix: Mapping[str, list[Any]] = field(default_factory=dict)
    #: Properties under every override, whose own properties win.
    constants: JsonObject = field(default_factory=dict)
    merge: Literal["shallow", "deep"] = "shallow"
    #: The task's stored input: a deep merge lays overrides over it, a shallow one is compared with it.
    task_input: JsonObject | None = None
    #: Rows that are ordered by `@priority` at a time; None: LOOK_AHEAD_ROWS or _JOBS if it is used, else 1.
    look_ahead: int | None = None

    @property
    def is_stdin(self) -> bool:
        """Whether the jobs come from standard input."""
        return str(self.path) == "-"

    @property
    def name(self) -> str:
        """The job file as messages name it."""
        return "stdin" if self.is_stdin else str(self.path)

    @property
    def compression(self) -> Compression:
        """How the file is compressed, by the last part of its name."""
        return _COMPRESSIONS.get(Path(self.path).suffix.lower(), "none")

    @property
    def kind(self) -> Kind:
        """The kind of rows, by the name.

        Raises:
            JobFileError: The name ends like no known format.
        """
        if self.is_stdin:
            return self.rows or "jsonl"
        if found := _ADDRESS.search(self.name):
            address = f"{found[1]}://{found[2]}"
            download = _DOWNLOADS.get({"https": "http", "ftp": "http"}.get(found[1], found[1]), _DOWNLOADS["az"])
            problem = f"is an address, and job files are read from this machine; first: {download.format(address)}"
            raise JobFileError(problem, file=address)
        if self.rows is not None:
            return self.rows
        plain = Path(self.path) if self.compression == "none" else Path(self.path).with_suffix("")
        try:
            return _KINDS[plain.suffix.lower()]
        except KeyError:
            if converted := _CONVERTED.get(plain.suffix.lower()):
                advice = f"is not read; save it as CSV, or: {converted.format(name=plain)}"
                raise JobFileError(advice, file=self.name) from None
            known = ", ".join(_KINDS)
            problem = (
                f"the name must end in one of {known} (each also with .gz or .zst); '-' reads JSON lines from stdin"
            )
            raise JobFileError(problem, file=self.name) from None
