"""The rate of starts, counted by the server that limits it."""

from datetime import datetime
from pathlib import Path

import orjson
import pytest

from batchrun import Outcome, run_batch
from batchrun.server import InlineContext
from batchrun.server.accounts.rate_limits import RateLimits
from batchrun.server.error_answers import ErrorAnswer
from tests.support.inline_batch import ENVIRON, batch_config, serving


async def nothing(_: InlineContext) -> None:
    """Do nothing, successfully."""


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the resources of the requests that the server's rate limiter refuses."""
    resources = list[str]()
    admit = RateLimits.admit

    def counted(limits: RateLimits, who: str, resource: str, per_s: int) -> None:
        try:
            admit(limits, who, resource, per_s)
        except ErrorAnswer:
            resources.append(resource)
            raise

    monkeypatch.setattr(RateLimits, "admit", counted)
    return resources


@pytest.mark.parametrize(("start_rate", "jobs"), [(100.0, 330), (5000.0, 1200)])
async def test_starts_keep_the_rate_and_are_never_refused(
    tmp_path: Path, refused: list[str], start_rate: float, jobs: int
) -> None:
    """By the server's clock no three seconds hold more starts than the rate, and no request is refused.

    A rate above the announced limit is lowered to it.
    """
    async with serving(tmp_path, nothing) as server:
        limits = {"limits__max_concurrent_runs": 100, "limits__start_rate": start_rate}
        config = batch_config(tmp_path, server, [{"n": n} for n in range(jobs)], output__items="none", **limits)
        summary = await run_batch(config, environ=ENVIRON)
        assert (summary.outcomes, server.runs_started) == ({Outcome.SUCCEEDED: jobs}, jobs)
    assert refused == []
    rate = min(start_rate, 380.0)
    times = sorted(_started_at(line) for line in (tmp_path / "out/records.jsonl").read_bytes().splitlines())
    # A stalled machine sends starts later than they were let through, so that a window may hold half a second's starts
    # more. The first answer announces the limit; up to 250 starts (a burst) may have been sent before it.
    span, burst = round(3 * rate), 0.05 * start_rate
    windows = zip(times, times[span:], strict=False)
    assert all((later - first).total_seconds() >= 3 - 0.5 - burst / rate for first, later in windows)


def _started_at(line: bytes) -> datetime:
    return datetime.fromisoformat(orjson.loads(line)["run"]["startedAt"])
