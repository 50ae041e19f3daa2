"""The report of a batch: one self-contained HTML page, made from the ledger and samples of the job file."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from batchrun.config import ApiConfig, Config
from batchrun.ledger.protocol import CostRow
from batchrun.model import Ending, Outcome, Position, Summary
from batchrun.output.layout import BAD_LINES
from batchrun.output.worker_batch import retry_command
from batchrun.report.charts import histogram, live_runs_chart, outcome_parts, small_bar, spending_bar, stacked_bar
from batchrun.report.failures_by_cause import Failure, Failures, kind_words, run_address
from batchrun.report.html_elements import (
    Column,
    Html,
    Tile,
    card,
    command,
    facts,
    foreign,
    join,
    legend,
    link,
    page,
    table,
    tag,
    tiles,
)
from batchrun.report.report_data import MAX_DAYS, Distribution, ReportData, read_report_data
from batchrun.report.sent_overrides import sent_overrides
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.shell_command import shell_command
from batchrun.style_sheet import Tone
from batchrun.version import __version__
from batchrun.words.number_words import counted, duration, money
from batchrun.words.progress_words import cost_words, ending_words, slot_words
from batchrun.words.terminal_text import last_lines, one_line

#: Max causes of failure with a sample; the others have one line each.
SAMPLES = 12
_LOG_LINES = 15
_LINE_CHARS = 300
_KEY_CHARS = 60
_SENT_CHARS = 300
#: Max characters of an override in a report.
_MAX_SENT_CHARS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    directory: Path
    config: Config
    #: The overrides of sample jobs, as far as they could be read.
    sent: Mapping[Position, str]
    #: The command that retries its jobs.
    retry: str

    @property
    def api(self) -> ApiConfig:
        return self.config.api


def make_report(directory: Path, config: Config, own_summary: Summary | None = None) -> str:
    """Return the report of a batch as HTML, also while another process runs the batch.

    `config` is the one with which the batch was last opened; `own_summary` is that of this process, if it has just run
    the batch. Commands on the page name `directory` as it is given.
    """
    data = read_report_data(directory, own_summary)
    sent = sent_overrides(directory, config, data.failures.kinds[:SAMPLES], _MAX_SENT_CHARS)
    batch = _Batch(directory=directory, config=config, sent=sent, retry=retry_command(directory))
    name = directory.resolve().name
    has_days, has_rounds = len(data.cost_by_day) > 1, len(data.rounds) > 1
    cards = tag(
        "div",
        _jobs_card(data, config),
        _failures_card(data.failures, batch),
        _distribution_card("Run time", data.run_times, "from the start of a Run to its end", "Runs"),
        _distribution_card("Time in the queue", data.queue_times, "from admission to the first Run", "jobs"),
        _live_card(data, config),
        _groups_card(data),
        _cost_card(data, config, is_half=has_days or has_rounds),
        _days_card(data.cost_by_day) if has_days else None,
        _rounds_card(data.rounds, is_half=not has_days) if has_rounds else None,
        _slowest_card(data, batch.api),
        class_="cards",
    )
    return page(f"{name} · batchrun", _head(name, data, config), cards, _foot(data, batch))


def _head(name: str, data: ReportData, config: Config) -> Html:
    task = config.task.id or f"{config.task.name} ({config.task.actor})"
    words = [tag("span", _state_words(data), class_="state"), join(["task ", foreign(task)])]
    if data.times is not None:
        ended_at = data.read_at if data.pid is not None else data.times.last_noted_at
        words.append(join([_period(data.times.began_at, ended_at)]))
    separated = [part for word in words for part in (" · ", word)][1:]
    return tag("div", tag("h1", foreign(name)), tag("p", *separated), class_="head")


def _state_words(data: ReportData) -> str:
    summary = data.summary
    if data.pid is not None:
        return f"Running (process {data.pid})"
    if summary.open_jobs and summary.ending is Ending.FINISHED:
        return "Stopped"
    return ending_words(summary.ending).rstrip(",")


def _period(began_at: datetime, ended_at: datetime) -> str:
    form = "%H:%M:%S" if began_at.date() == ended_at.date() else "%Y-%m-%d %H:%M:%S"
    return f"{began_at:%Y-%m-%d %H:%M:%S} to {ended_at.strftime(form)} UTC"


def _jobs_card(data: ReportData, config: Config) -> Html:
    summary = data.summary
    parts = outcome_parts(summary.outcomes, summary.left_jobs)
    keys = [(part.tone, f"{part.count:,} {part.name}") for part in parts if part.count]
    note = f"{summary.settled:,} settled" + (f", {summary.left_jobs:,} left" if summary.left_jobs else "")
    bar = stacked_bar("Jobs by outcome", parts)
    return card("Jobs", bar, legend(keys), tag("div", tiles(_tiles(data, config)), class_="block"), note=note)


def _tiles(data: ReportData, config: Config) -> list[Tile]:
    summary, attempts = data.summary, data.attempts
    succeeded = summary.outcomes.get(Outcome.SUCCEEDED, 0)
    success = f"{100 * succeeded / summary.settled:.1f} %" if summary.settled else "-"
    repeated = f"{attempts.repeated:,} of them retries" if attempts.repeated else None
    live = f"{summary.live_runs:,} live" if summary.live_runs else None
    empty = f"{summary.empty_successes:,} successes had none" if summary.empty_successes else None
    shown = [
        Tile(name="Succeeded", value=success, note=f"{succeeded:,} of {summary.settled:,}"),
        Tile(name="Runs", value=f"{attempts.runs:,}", note=live or repeated),
        Tile(name="Items", value=f"{summary.items:,}", note=empty),
        Tile(name="Cost", value=money(summary.cost_usd), note=_cost_note(data, config)),
    ]
    if data.times is not None and attempts.runs:
        ended_at = data.read_at if data.pid is not None else data.times.last_noted_at
        took_s = max(0.0, (ended_at - data.times.began_at).total_seconds())
        rate = f"{summary.settled / took_s:.3g} jobs/s" if took_s > 0 and len(data.live_runs) == 1 else None
        shown.append(Tile(name="Took", value=duration(took_s), note=rate))
    if summary.in_doubt:
        shown.append(Tile(name="In doubt", value=f"{summary.in_doubt:,}", note="starts without an answer"))
    return shown


def _cost_note(data: ReportData, config: Config) -> str | None:
    if data.summary.open_costs:
        return f"not final for {data.summary.open_costs:,} of {counted(data.attempts.runs, 'Run')}"
    if data.summary.unknown_costs:
        return f"and {counted(data.summary.unknown_costs, 'Run')} of unknown cost"
    if config.limits.budget_usd is not None:
        return f"of {money(config.limits.budget_usd)}"
    return f"{money(data.summary.cost_usd / data.attempts.runs)} a Run" if data.attempts.runs else None


def _failures_card(failures: Failures, batch: _Batch) -> Html:
    if not failures.jobs and not failures.bad_lines:
        return card("Failures", tag("p", "No job has failed.", class_="soft"))
    samples = [_cause(failure, batch) for failure in failures.kinds[:SAMPLES]]
    # The width of the largest count, which comes first.
    digits = len(f"{failures.kinds[0].count:,}") if failures.kinds else 0
    causes = tag("div", *samples, class_="causes", style=f"--digits: {digits}ch") if samples else None
    rest = failures.kinds[SAMPLES:]
    columns = [Column(heading="Jobs", kind="number"), Column(heading="Cause"), Column(heading="Retry")]
    rows = [(f"{each.count:,}", foreign(kind_words(each)), command(_retry(each, batch))) for each in rest]
    more = tag("div", table(columns, rows), class_="block") if rows else None
    note = f"{_many(failures.jobs, 'job')}, {_many(len(failures.kinds) + failures.other_kinds, 'cause')}"
    return card("Failures", causes, more, _beyond(failures, batch), note=note)


def _beyond(failures: Failures, batch: _Batch) -> Html:
    lines: list[tuple[str, str | None]] = []
    if failures.other_kinds:
        lines.append((f"{failures.other_jobs:,} more", f"of {failures.other_kinds:,} further causes"))
    if failures.bad_lines:
        where = str(batch.directory / BAD_LINES)
        lines.append((_many(failures.bad_lines, "bad line"), join(["each with its reason in ", tag("code", where)])))
    if failures.jobs:
        lines.append(("all of them", command(batch.retry)))
    return tag("div", facts(lines), class_="block")


def _cause(failure: Failure, batch: _Batch) -> Html:
    tone = tag("span", class_=f"swatch tone-{Tone(failure.outcome)}", aria_hidden="true")
    head = tag(
        "header",
        tag("span", f"{failure.count:,}", class_="count"),
        tag("h3", tone, foreign(kind_words(failure), _LINE_CHARS)),
    )
    sent = batch.sent.get(failure.position)
    rows: list[tuple[str, str | None]] = [
        ("for example", _sample(failure, batch.api)),
        ("sent", tag("code", foreign(sent, _SENT_CHARS)) if sent else None),
        ("retry", command(_retry(failure, batch))),
    ]
    log = None
    if failure.log_tail is not None:
        lines = last_lines(failure.log_tail, _LOG_LINES, _LINE_CHARS) or ["(empty)"]
        log = tag("details", tag("summary", "end of its log"), tag("pre", "\n".join(lines)))
    return tag("div", head, tag("div", facts(rows), log, class_="body"), class_="cause")


def _sample(failure: Failure, api: ApiConfig) -> Html:
    parts = [f"line {failure.position.line:,}, key ", foreign(failure.key, _KEY_CHARS)]
    if failure.run_id is not None:
        parts += [", Run ", link(run_address(api, failure.run_id), one_line(failure.run_id, _KEY_CHARS))]
    return join(parts)


def _retry(failure: Failure, batch: _Batch) -> str:
    return f"{batch.retry} --failure {failure.id}"


def _distribution_card(title: str, found: Distribution | None, what: str, noun: str) -> Html:
    if found is None:
        return card(title, tag("p", "Nothing to show yet.", class_="soft"), note=what, is_half=True)
    spread = found.spread
    shown = [
        Tile(name="Median" if each == 50 else f"{each} % within", value=_time_words(value))
        for each, value in spread.percentiles.items()
    ]
    shown += [Tile(name="Longest", value=_time_words(spread.longest_s))]
    marks = {f"p{per_cent}": value for per_cent, value in spread.percentiles.items()}
    chart = histogram(title, found.edges, found.counts, marks, noun)
    return card(title, chart, tag("div", tiles(shown), class_="block"), note=what, is_half=True)


def _time_words(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else duration(seconds)


def _live_card(data: ReportData, config: Config) -> Html:
    limit = config.limits.max_concurrent_runs
    chart = live_runs_chart(data.live_runs, limit if isinstance(limit, int) else None)
    note = None
    if data.live_runs:
        lasted_s = sum(each.lasted_s for each in data.live_runs)
        average = sum(sum(each.values) * each.interval_s for each in data.live_runs) / lasted_s
        cut = "; times without a live Run are cut out" if len(data.live_runs) > 1 else ""
        interval = _time_words(max(each.interval_s for each in data.live_runs))
        note = f"{average:.1f} on average; each step is the average of {interval}, UTC{cut}"
    slots = slot_words(data.summary)
    said = tag("p", f"Slots: {slots}, by the last process.", class_="soft small block") if slots else None
    return card("Live Runs", chart, said, note=note)


def _cost_card(data: ReportData, config: Config, *, is_half: bool) -> Html:
    summary, budget = data.summary, config.limits.budget_usd
    bar = None
    if budget is not None:
        reserved, spent = data.money.reserved_usd, data.money.spent_usd
        bar = tag("div", spending_bar(budget_usd=budget, spent_usd=spent, reserved_usd=reserved))
    total = data.total_costs
    rows = [((row.shared[0] or "open").replace("_", " "), *_cost_cells(row, total)) for row in data.cost_by_outcome]
    said = [f"{money(total.derived_usd)} of it is derived from charges and prices."] if total.derived_usd else []
    return card(
        "Cost",
        bar,
        tag(
            "div",
            table(_cost_columns("Outcome"), rows, ("all", f"{total.runs:,}", _row_cost(total), "")),
            class_="block" if bar else None,
        ),
        tag("p", " ".join(said), class_="soft small block") if said else None,
        note=cost_words(summary),
        is_half=is_half,
    )


def _cost_columns(first: str) -> list[Column]:
    return [
        Column(heading=first),
        Column(heading="Runs", kind="number"),
        Column(heading="Cost", kind="number"),
        Column(heading="", kind="bar"),
    ]


def _cost_cells(row: CostRow, whole: CostRow) -> tuple[str, str, str]:
    fraction = row.cost_usd / whole.cost_usd if whole.cost_usd > 0 else 0.0
    return f"{row.runs:,}", _row_cost(row), small_bar(fraction)


def _row_cost(row: CostRow) -> str:
    """Return the cost of some Runs; an unknown cost is not 0."""
    if row.runs and row.unknown_costs == row.runs:
        return "unknown"
    return money(row.cost_usd) + (" + ?" if row.unknown_costs else "")


def _slowest_card(data: ReportData, api: ApiConfig) -> Html:
    columns = [
        Column(heading="Key"),
        Column(heading="Run"),
        Column(heading="Status", is_minor=True),
        Column(heading="Cost", kind="number", is_minor=True),
        Column(heading="Took", kind="number"),
        Column(heading="", kind="bar"),
    ]
    longest_s = max((run.run_s for run in data.slowest), default=0.0)
    rows = [
        (
            foreign(run.key, _KEY_CHARS),
            link(run_address(api, run.run_id), one_line(run.run_id, _KEY_CHARS)),
            run.status.lower() if run.status is not None else "-",
            money(run.cost_usd) if run.cost_usd is not None else "unknown",
            _time_words(run.run_s),
            small_bar(run.run_s / longest_s if longest_s > 0 else 0.0),
        )
        for run in data.slowest
    ]
    shown = table(columns, rows) if rows else tag("p", "No Run has ended yet.", class_="soft")
    return card("Slowest Runs", shown)


def _groups_card(data: ReportData) -> Html | None:
    if not data.groups:
        return None
    columns = [
        Column(heading="Group"),
        Column(heading="Jobs", kind="number"),
        Column(heading="Succeeded", kind="number"),
        Column(heading="Open", kind="number", is_minor=True),
        Column(heading="Runs", kind="number", is_minor=True),
        Column(heading="Cost", kind="number"),
        Column(heading="Outcomes", kind="bar"),
    ]
    rows = []
    for group in data.groups:
        cost = data.cost_by_group.get(group.group)
        name = foreign(group.group, _KEY_CHARS) if group.group is not None else tag("span", "none", class_="soft")
        settled = group.jobs - group.open_jobs
        succeeded = group.outcomes.get(Outcome.SUCCEEDED, 0)
        rows.append(
            (
                name,
                f"{group.jobs:,}",
                f"{100 * succeeded / settled:.1f} %" if settled else "-",
                f"{group.open_jobs:,}",
                f"{cost.runs:,}" if cost is not None else "0",
                _row_cost(cost) if cost is not None else money(0),
                _small_outcomes(group.outcomes, group.open_jobs),
            )
        )
    more = f"the {len(rows)} largest of {data.group_count:,}" if data.group_count > len(rows) else None
    return card("Groups", table(columns, rows), note=more)


def _small_outcomes(outcomes: Mapping[Outcome, int], open_jobs: int) -> Html:
    return stacked_bar("Outcomes", outcome_parts(outcomes, open_jobs), height=10)


def _days_card(days: Sequence[CostRow]) -> Html:
    dearest = max(row.cost_usd for row in days)
    rows = [
        (
            row.shared[0] or "-",
            f"{row.runs:,}",
            _row_cost(row),
            small_bar(row.cost_usd / dearest if dearest > 0 else 0.0),
        )
        for row in days
    ]
    note = "by the end of the Run, UTC" + (f"; the last {MAX_DAYS} days" if len(days) == MAX_DAYS else "")
    return card("Days", table(_cost_columns("Day"), rows), note=note, is_half=True)


def _rounds_card(rounds: Sequence[Mapping[Outcome, int]], *, is_half: bool) -> Html:
    columns = [
        Column(heading="Round"),
        Column(heading="Settled", kind="number"),
        Column(heading="Succeeded", kind="number"),
        Column(heading="Outcomes", kind="bar"),
    ]
    rows = [
        (
            f"{number:,}",
            f"{sum(outcomes.values()):,}",
            f"{outcomes.get(Outcome.SUCCEEDED, 0):,}",
            _small_outcomes(outcomes, 0),
        )
        for number, outcomes in enumerate(rounds, 1)
    ]
    return card("Rounds", table(columns, rows), is_half=is_half)


def _foot(data: ReportData, batch: _Batch) -> Html:
    words = f"Written {data.read_at:%Y-%m-%d %H:%M:%S} UTC by batchrun {__version__}; to update: "
    return tag("footer", words, command(shell_command("batchrun", "report", batch.directory)))


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
