"""`batchrun report DIR`: the report of a batch as one HTML file."""

from pathlib import Path

from batchrun.cli.failure_lines import unread_line
from batchrun.cli.overwrite_check import refuse_no_html
from batchrun.cli.terminal import say, write_data
from batchrun.maintenance.noted_config import read_config
from batchrun.output.atomic_write import replace_text
from batchrun.output.layout import REPORT
from batchrun.report.report_page import make_report


def write_batch_report(directory: Path, out: Path | None) -> None:
    """Write a batch's report to `out`; `-` is stdout, None is report.html in the batch's directory."""
    config, _ = read_config(directory)
    page = make_report(directory, config)
    if (unread := unread_line(directory)) is not None:
        say(unread)
    if out == Path("-"):
        write_data(page.encode())
        return
    file = out if out is not None else directory / REPORT
    if out is not None:
        refuse_no_html(out)
    replace_text(file, page, is_private=out is None)
    say(f"report   {file}")
