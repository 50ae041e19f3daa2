"""What `batchrun run` shows while a batch runs, on stderr: a progress line, and news as they come."""

import time
from collections.abc import Sequence

import anyio

from batchrun.batch.running_batch import Batch
from batchrun.cli.terminal import can_redraw, live_lines, say
from batchrun.model import Outcome
from batchrun.words.notice_words import notice_words
from batchrun.words.number_words import duration
from batchrun.words.progress_words import ProgressSnapshot, Speed, progress_line

#: Seconds between two redraws of the live line.
LIVE_INTERVAL_S = 0.25
#: Seconds between two plain lines, where stderr is not a terminal.
PLAIN_INTERVAL_S = 5.0


def edit_words(changed: Sequence[str], when: str) -> str:
    """Return a warning that parts of the task were edited."""
    return (
        f"Warning: the task's {' and '.join(changed)} {'was' if len(changed) == 1 else 'were'} edited {when}:"
        " Runs that start now differ from those before"
    )


class News:
    """What a person learns at once: notices of the engine, edits of the task, begin and end of an outage."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._edits_shown = 0
        self._outage_began_at: float | None = None

    def words(self) -> list[str]:
        """Return what is new since the last call."""
        notices = map(notice_words, self._batch.progress.notices.take())
        edits = self._batch.task_edits[self._edits_shown :]
        self._edits_shown += len(edits)
        return [*notices, *(edit_words(changed, "just now") for changed in edits), *self._outage_words()]

    def _outage_words(self) -> list[str]:
        reason = self._batch.outage
        if reason and self._outage_began_at is None:
            self._outage_began_at = anyio.current_time()
            return [f"The platform cannot be reached ({reason}); retrying. No job fails because of this."]
        if not reason and self._outage_began_at is not None:
            lasted = duration(anyio.current_time() - self._outage_began_at)
            self._outage_began_at = None
            return [f"The platform can be reached again, after {lasted}."]
        return []


async def watch_progress(batch: Batch) -> None:
    """Show progress until cancelled: a live line on a terminal, else a plain line every few seconds."""
    news = News(batch)
    try:
        await (_live(batch, news) if can_redraw() else _plain(batch, news))
    finally:
        for word in news.words():
            say(word)


async def _live(batch: Batch, news: News) -> None:
    speed = Speed()
    with live_lines() as live:
        while True:
            for word in news.words():
                say(word)
            live.draw("\n".join(filter(None, [_line(batch, speed, live.width), batch.waits])))
            await anyio.sleep(LIVE_INTERVAL_S)


async def _plain(batch: Batch, news: News) -> None:
    speed = Speed()
    shown_at = anyio.current_time()
    speed.note(shown_at, 0)
    while True:
        await anyio.sleep(1)
        for word in news.words():
            say(word)
        if anyio.current_time() - shown_at >= PLAIN_INTERVAL_S:
            shown_at = anyio.current_time()
            line = " · ".join(filter(None, [_line(batch, speed), batch.waits]))
            say(f"{time.strftime('%H:%M:%S')}  {line}")


def _line(batch: Batch, speed: Speed, width: int | None = None) -> str:
    progress, opening = batch.progress, batch.opening
    settled = progress.settled
    speed.note(anyio.current_time(), settled)
    snapshot = ProgressSnapshot(
        settled=opening.settled_before + settled,
        succeeded=opening.succeeded_before + progress.outcomes.get(Outcome.SUCCEEDED, 0),
        job_count=opening.job_count,
        live_runs=batch.live_runs,
        postponed=progress.postponed,
        in_doubt=progress.in_doubt,
        cost_usd=opening.cost_before_usd + progress.cost_usd,
        is_stopping=batch.is_stopping,
    )
    return progress_line(snapshot, speed.per_s(), width)
