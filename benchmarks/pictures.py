"""Pictures of what was measured, as SVG files in benchmarks/pictures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PICTURES = Path(__file__).with_name("pictures")
COLOURS = {"plain": "#8a8f98", "batchrun": "#2563a8", "apify-client": "#d08a2e", "httpx": "#b5543f"}
#: The same figures give the same file.
mpl.rcParams.update({"svg.hashsalt": "batchrun", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


@contextmanager
def _picture(name: str, columns: int = 1, *, width: float = 3.6) -> Iterator[list[Axes]]:
    figure = Figure(figsize=(width * columns, 3.0), layout="constrained")
    yield list(figure.subplots(1, columns, squeeze=False)[0])
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})


def _bar(axes: Axes, at: float, found: Mapping[str, float], colour: str, *, width: float = 0.8) -> None:
    below, above = found["median"] - found["min"], found["max"] - found["median"]
    axes.bar(at, found["median"], width, color=colour, yerr=[[below], [above]], capsize=3, error_kw={"lw": 0.8})


def throughput(figures: Mapping[str, Any], slot_counts: Sequence[int], sides: Sequence[str]) -> None:
    """Draw jobs per second of all sides."""
    with _picture("throughput", len(slot_counts)) as panels:
        for axes, slots in zip(panels, slot_counts, strict=True):
            for at, side in enumerate(sides):
                _bar(axes, at, figures[f"{slots}_slots"]["sides"][side]["jobs_per_s"], COLOURS[side])
            axes.set_xticks(range(len(sides)), sides)
            axes.set_title(f"{slots} slots")
            axes.set_ylabel("jobs per second, one core")


def overhead(figures: Mapping[str, Any]) -> None:
    """Draw the CPU time per job, stage upon stage, beside that of the plain loop."""
    with _picture("overhead", width=5.0) as [axes]:
        axes.bar(0, figures["plain_cpu_us_per_job"]["median"], 0.6, color=COLOURS["plain"], label="plain loop")
        below = 0.0
        colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]  # a listed map has them
        found = {stage: each["median"] for stage, each in figures["stages_us"].items()}
        for (stage, us), colour in zip(reversed(found.items()), colours, strict=False):
            axes.bar(1, us, 0.6, bottom=below, color=colour, label=f"{stage} ({us:.0f})")
            below += us
        axes.set_xticks([0, 1], ["plain", "batchrun"])
        axes.set_ylabel("CPU µs per job")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def crash_cost(figures: Mapping[str, Any], slot_counts: Sequence[int]) -> None:
    """Draw jobs per second with and without syncs, and the steps of a commit."""
    with _picture("crash-cost", 2) as [rates, steps]:
        for at, slots in enumerate(slot_counts):
            found = figures[f"{slots}_slots"]
            _bar(rates, at - 0.2, found["durable"]["jobs_per_s"], COLOURS["batchrun"], width=0.38)
            _bar(rates, at + 0.2, found["unsynced"]["jobs_per_s"], COLOURS["plain"], width=0.38)
            _bar(steps, at, found["durable"]["steps_per_commit"], COLOURS["batchrun"])
        rates.set_ylabel("jobs per second; grey: nothing synced")
        steps.set_ylabel("steps per commit")
        for axes in (rates, steps):
            axes.set_xticks(range(len(slot_counts)), [f"{slots} slots" for slots in slot_counts])


def slots(figures: Mapping[str, Any]) -> None:
    """Draw the share of slots in use, by the platform's count."""
    with _picture("slots", width=4.6) as [axes]:
        for at, (name, found) in enumerate(figures["sides"].items()):
            axes.bar(at, 100 * found["slot_use"], color=COLOURS.get(name, COLOURS["httpx"]))
            axes.annotate(f"{found['slot_use']:.1%}", (at, 100 * found["slot_use"]), ha="center", va="bottom")
        axes.set_xticks(range(len(figures["sides"])), list(figures["sides"]))
        axes.set_ylabel("% of the slots' time that was Runs")


def start_up(figures: Mapping[str, Any]) -> None:
    """Draw the time until the first start."""
    with _picture("start-up", width=4.6) as [axes]:
        names = ("small_file_s", "large_file_s", "large_csv_s", "resumed_s")
        for at, name in enumerate(names):
            _bar(axes, at, figures[name], COLOURS["batchrun"])
        labels = [
            "small job file",
            f"{figures['file_gb']:g} GB\njob file",
            "the same\nas CSV",
            f"{figures['settled']:,}\nsettled jobs",
        ]
        axes.set_xticks(range(len(names)), labels)
        axes.set_ylabel("s until the first start")


def followed(figures: Mapping[str, Any]) -> None:
    """Draw peak memory with so many Runs followed at once."""
    with _picture("followed", width=4.6) as [axes]:
        for at, found in enumerate(figures["cases"].values()):
            axes.bar(at, found["peak_rss_mb"], color=COLOURS["batchrun"])
            axes.annotate(f"{found['peak_rss_mb']:.0f}", (at, found["peak_rss_mb"]), ha="center", va="bottom")
        axes.set_xticks(range(len(figures["cases"])), list(figures["cases"]))
        axes.set_ylabel("peak RSS, MB")


def memory(samples: Sequence[tuple[float, float]], jobs: int) -> None:
    """Draw resident memory over the time of a batch."""
    with _picture("memory", width=4.6) as [axes]:
        axes.plot([at for at, _ in samples], [mb for _, mb in samples], color=COLOURS["batchrun"], lw=1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"s, {jobs:,} jobs")
        axes.set_ylabel("RSS, MB")
