"""`[output]`: what is collected, and where it is written. `output_expectation.py` has what is expected of items."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from batchrun.config.section import Name, PositiveInt, Section


class OutputConfig(Section):
    """What is collected, and where it is written."""

    dir: Path | None = None
    """The output directory; default: the stem of the batch or job file + .out, in the current directory."""
    items: Literal["file", "inline", "none"] = "file"
    """Dataset items go to items.jsonl, into the record (at most max_inline_items), or are not fetched."""
    max_inline_items: PositiveInt = 1000
    """Most items of one Run that go into its record."""
    page_size: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Items per request."""
    value: bool = False
    """Whether the OUTPUT value of each Run goes into its record."""
    logs: bool = True
    """Whether the last 64 KB of the log are kept for Runs whose jobs did not succeed, at most 1,000 Runs."""
    report: bool = False
    """Whether report.html is written into the output directory whenever a process ends its work on the batch."""
    expect_items_min: PositiveInt | None = None
    """A succeeded Run with fewer items has the outcome empty."""
    expect_item_schema: Path | None = None
    """JSON Schema file; a succeeded Run whose first 100 items do not all fit it has the outcome malformed."""
    clean: bool | None = None
    """The API's `clean`: only non-empty items, without hidden fields."""
    fields: list[Name] | None = None
    """The API's `fields`: only these."""
    omit: list[Name] | None = None
    """The API's `omit`: all but these."""
    unwind: list[Name] | None = None
    """The API's `unwind`: fields that become items."""
    flatten: list[Name] | None = None
    """The API's `flatten`: objects that become dotted fields."""
