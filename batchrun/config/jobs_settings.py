"""`[jobs]`: the job file and how its lines become jobs. `job_format_builder.py` makes the job format of it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from batchrun.config.section import Name, PositiveInt, Section
from batchrun.model import JsonObject

#: Max parts of a job file: each batch reads the whole file to find its own.
MAX_SHARDS = 64


def _shard(value: list[int]) -> list[int]:
    if len(value) != 2 or not 1 <= value[0] <= value[1] <= MAX_SHARDS:
        raise ValueError(f"must be [number, count], like [1, 8]; the count is {MAX_SHARDS} at most")
    return value


class JobsConfig(Section):
    """The job file and how its lines become jobs."""

    file: Path
    """The job file: .jsonl .ndjson .json .csv .tsv, each also .gz or .zst; - is stdin."""
    format: Literal["jsonl", "json", "csv", "tsv"] | None = None
    """Format of the file; default: by its name, JSONL on stdin."""
    encoding: Name | None = None
    """Text encoding of a CSV file; default UTF-8, with or without a byte order mark."""
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None
    """Delimiter of a CSV file; default: recognised from the header and the rows after it."""
    quote: str | None = None
    """Character that quotes cells of a CSV file, or "none" where quotes are ordinary characters; default: '"'."""
    trim: bool | None = None
    """Whether blanks around the cells of a CSV file are left out; default: true."""
    empty: list[str] = []
    """Cells that count as empty, like ["NA", "NaN", "None"]."""
    key: str | None = None
    """Template of the job key, like "{{sku}}"; default: derived from the content."""
    group: str | None = None
    """Template of the group, like "{{country}}"."""
    meta: list[Name] = []
    """Columns that are copied to the record."""
    template: JsonObject | None = None
    """Turns a row into an override: strings hold {{column}}, {{n:int}}, {{tags:split(|)}}, {{x:json?}}."""
    matrix: dict[Name, Annotated[list[Any], Field(min_length=1)]] = {}
    """Multiplies every line by every combination of these lists."""
    merge: Literal["shallow", "deep"] = "shallow"
    """How an override is merged into the task's input: at the top level, as the API does it, or at every level."""
    on_bad_line: Literal["stop", "record"] = "stop"
    """What a bad line among the first 10,000 does before the first start: stop the batch, or become a record."""
    check_inputs: bool = True
    """Whether the first 10,000 inputs are checked against the Actor's input schema before the first start."""
    unknown_properties: Literal["stop", "allow"] = "stop"
    """Whether a new batch that costs money stops where lines set nothing: properties that the schema does not name."""
    limit: PositiveInt | None = None
    """Number of jobs from the top of the file that are carried out; default: all."""
    shard: Annotated[list[int], AfterValidator(_shard)] | None = None
    """[2, 8]: only the jobs whose keys are in the second of eight parts of the file; default: all jobs."""
    max_window_mb: Annotated[int, Field(ge=8, le=2048)] = 2048
    """Most memory that a .zst file may need to be decompressed, in megabytes; in a worker 8 at most."""
