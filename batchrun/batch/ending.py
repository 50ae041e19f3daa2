"""The end of a batch: its final costs, its ending, its summary, and the files that are written then.

What these files hold is in `report/`: the report, and in `report/output_files/` all others.
"""

from dataclasses import replace
from pathlib import Path

import anyio
import structlog

from batchrun.config import Config
from batchrun.engine.build_engine import Engine
from batchrun.engine.notices import CostsNotWritten, ReportNotWritten, WaitingForFinalCosts
from batchrun.errors import OutputError
from batchrun.model import Ending, Summary
from batchrun.output.atomic_write import replace_text
from batchrun.output.layout import REPORT
from batchrun.report.batch_status import read_summary
from batchrun.report.output_files.costs_jsonl import write_costs
from batchrun.report.output_files.duplicates_jsonl import write_duplicates

_log = structlog.get_logger()


async def wait_for_final_costs(engine: Engine) -> None:
    """Wait until all costs are final, or `FinalCostReader.finish` gives up.

    An interruption ends the wait: the batch will be resumed. That of a batch which is cancelled does not.
    """
    async with anyio.create_task_group() as children:

        async def leave_when_interrupted() -> None:
            await engine.scheduler.is_interrupted.wait()
            children.cancel_scope.cancel()

        if not engine.batch_abort.has_begun:
            children.start_soon(leave_when_interrupted)
        await engine.costs.finish(lambda: engine.progress.notices.add(WaitingForFinalCosts()))
        children.cancel_scope.cancel()


async def summarize(out_dir: Path, engine: Engine) -> Summary:
    """Return the results of the batch, those of earlier processes included."""
    summary = await anyio.to_thread.run_sync(read_summary, out_dir, _ending(engine))
    meter = engine.meter
    summary = replace(
        summary,
        slot_use=meter.use.fraction,
        refill_p50_s=meter.refill.quantile(0.5),
        refill_p99_s=meter.refill.quantile(0.99),
        unread_jobs=0 if engine.scheduler.has_read_all else summary.unread_jobs,
    )
    if engine.scheduler.has_read_all and not summary.open_jobs:
        return replace(summary, ending=Ending.FINISHED)  # it was stopped, and no job was left to start
    return summary


def _ending(engine: Engine) -> Ending:
    scheduler = engine.scheduler
    if scheduler.stopped_for is not None:
        return scheduler.stopped_for
    if scheduler.has_tripped:
        return Ending.TRIPPED
    if scheduler.is_out_of_budget:
        return Ending.OUT_OF_BUDGET
    return Ending.IN_DOUBT if engine.progress.left_open else Ending.FINISHED


async def write_batch_costs(out_dir: Path, engine: Engine) -> None:
    """Write costs.jsonl; if it cannot be written, a notice says so."""
    try:
        await anyio.to_thread.run_sync(write_costs, out_dir)
    except OutputError as error:
        engine.progress.notices.add(CostsNotWritten(reason=str(error), out_dir=out_dir))


async def write_batch_duplicates(out_dir: Path) -> None:
    """Write duplicates.jsonl; if it cannot be written, the log says so, which names the lines, too."""
    try:
        await anyio.to_thread.run_sync(write_duplicates, out_dir)
    except OutputError as error:
        _log.warning("duplicates_not_written", reason=str(error))


async def write_batch_report(config: Config, engine: Engine) -> Path | None:
    """Write report.html and return its path; None: it could not be written, and a notice says so."""
    from batchrun.report.report_page import make_report  # noqa: PLC0415 - few batches write a report

    file = config.out_dir / REPORT
    try:
        summary = await summarize(config.out_dir, engine)
        page = await anyio.to_thread.run_sync(make_report, config.out_dir, config, summary)
        await anyio.to_thread.run_sync(replace_text, file, page)
    except OutputError as error:
        engine.progress.notices.add(ReportNotWritten(reason=str(error), out_dir=config.out_dir))
        return None
    return file
