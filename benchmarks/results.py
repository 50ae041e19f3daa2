"""What a measurement leaves: a table on stdout, and a line of results.jsonl with versions, machine and load."""

import os
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from batchrun.version import __version__

RESULTS = Path(__file__).with_name("results.jsonl")
_PACKAGES = ("aiohttp", "anyio", "orjson", "uvloop", "apify-client", "httpx", "aiometer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured; what is None is the benchmark's own."""

    jobs: int | None = None
    rounds: int | None = None
    #: The Python of an environment with another version of batchrun, to compare with.
    before: str | None = None


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return median and range of what was measured in several rounds."""
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def spread_words(values: dict[str, float]) -> str:
    """Return a median with its range, for a table."""
    return f"{values['median']:,} ({values['min']:,} to {values['max']:,})"


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table, in the form that the README has."""
    lines = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    print(f"\n{title}\n")
    for number, line in enumerate(lines):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print(f"| {' | '.join(cells)} |")
        if number == 0:
            print(f"| {' | '.join('-' * (width - 1) + ('-' if i == 0 else ':') for i, width in enumerate(widths))} |")


def note(name: str, figures: dict[str, Any], load_before: tuple[float, float, float]) -> None:
    """Append one line to results.jsonl."""
    line = {
        "benchmark": name,
        "batchrun": __version__,
        "python": platform.python_version(),
        **figures,
        "load": {"before": _rounded(load_before), "after": _rounded(os.getloadavg())},
        "machine": _machine(),
        "sqlite": sqlite3.sqlite_version,
        **{package: found for package in _PACKAGES if (found := _version(package))},
    }
    with RESULTS.open("ab") as results:
        results.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS))


def _rounded(load: tuple[float, float, float]) -> list[float]:
    return [round(each, 2) for each in load]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    return f"{os.cpu_count()} x {model}, {platform.system()}"
