"""`batchrun report DIR`: a batch as one HTML file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from batchrun.cli.directory_commands import Directory
from batchrun.cli.view import say
from batchrun.maintenance.directory import read_config
from batchrun.output.layout import REPORT
from batchrun.report.report_file import make_report, write_report


def command(
    directory: Directory,
    out: Annotated[Path | None, typer.Option(help=f"File to write; default: DIR/{REPORT}; - is stdout.")] = None,
) -> None:
    """Write what a batch has come to as one HTML file that needs nothing else; works while another process runs it."""
    config, _ = read_config(directory)
    page = make_report(directory, config)
    if out == Path("-"):
        sys.stdout.buffer.write(page.encode())
        sys.stdout.buffer.flush()
        return
    file = out if out is not None else directory / REPORT
    write_report(file, page)
    say(f"report   {file}")
