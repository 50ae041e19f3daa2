"""The clock that stamps Runs: measured at each answered start, and believed within bounds only."""

import random
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import pytest

from batchrun.apify import platform_clock
from batchrun.apify.platform_clock import PERIOD_S, PlatformClock
from batchrun.model import CLOCK_DOUBT
from batchrun.runtime.steady_time import steady_time

#: The Runs' clock at the loop's time 0.
BEGAN = datetime.now(UTC) + timedelta(minutes=7)


def true_time(at: float, ahead_s: float = 0.0) -> datetime:
    """Return the Runs' clock at a time of the loop."""
    return BEGAN + timedelta(seconds=at + ahead_s)


async def measure(
    clock: PlatformClock, *, there_s: float = 0.1, back_s: float = 0.1, ahead_s: float = 0.0, drift: float = 0.0
) -> None:
    """Start a Run: the request takes its time, then the answer."""
    sent_at = steady_time()
    await anyio.sleep(there_s)
    at = anyio.current_time()
    stamp = true_time(at, ahead_s + drift * at)
    await anyio.sleep(back_s)
    clock.note_start(stamp.replace(microsecond=stamp.microsecond // 1000 * 1000), sent_at)


def holds(clock: PlatformClock, ahead_s: float = 0.0) -> bool:
    """Return whether the clock's window holds the true time."""
    earliest, latest = clock.now
    return earliest <= true_time(anyio.current_time(), ahead_s) <= latest


@pytest.mark.parametrize("date_ahead_s", [-40 * 3600.0, 0.0, 40 * 3600.0, None])
async def test_unmeasured_it_is_somewhere_around_two_clocks(date_ahead_s: float | None) -> None:
    """Without a start, the window is a day to each side of this machine's clock and of the last `Date`."""
    clock, here = PlatformClock(), datetime.now(UTC)
    dates = [here]
    if date_ahead_s is not None:
        dates.append((here + timedelta(seconds=date_ahead_s)).replace(microsecond=0))
        clock.note_date(format_datetime(dates[1], usegmt=True))
    assert not clock.is_measured
    assert abs(clock.now.earliest - (min(dates) - CLOCK_DOUBT)) < timedelta(seconds=5)
    assert abs(clock.now.latest - (max(dates) + CLOCK_DOUBT)) < timedelta(seconds=5)


@pytest.mark.parametrize("date", ["Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "", None])
async def test_an_odd_date_breaks_nothing(date: str | None) -> None:
    """Any text is a header; the window holds this machine's time."""
    clock = PlatformClock()
    clock.note_date(date)
    assert clock.now.earliest <= datetime.now(UTC) <= clock.now.latest


async def test_a_start_measures_it_within_its_round_trip() -> None:
    """`startedAt` is a time between request and answer, whatever `Date` says."""
    clock = PlatformClock()
    clock.note_date("Fri, 02 Jan 2026 03:04:05 GMT")
    await measure(clock, there_s=0.2, back_s=0.3)
    assert (clock.is_measured, holds(clock)) == (True, True)
    assert 0.4 < clock.now.width_s < 0.6


async def test_a_quick_answer_narrows_what_a_slow_one_left_open() -> None:
    """And a slow one afterwards takes nothing back."""
    clock = PlatformClock()
    await measure(clock, there_s=20, back_s=5)
    assert clock.now.width_s > 20
    await measure(clock, there_s=0.01, back_s=0.01)
    await measure(clock, there_s=5, back_s=20)
    assert (clock.now.width_s < 0.2, holds(clock)) == (True, True)


async def test_it_grows_uncertain_with_time() -> None:
    """Two clocks drift: by seconds in an hour, until the next start."""
    clock = PlatformClock()
    await measure(clock)
    await anyio.sleep(3600)
    assert 7 < clock.now.width_s < 8
    await measure(clock)
    assert clock.now.width_s < 0.3


async def test_clocks_that_contradict_each_other_are_both_believed() -> None:
    """Either may stamp the next Run, however often one of them is seen."""
    clock = PlatformClock()
    for ahead_s in (0.0, -90.0, 0.0, 0.0):
        await measure(clock, ahead_s=ahead_s)
    assert (holds(clock), holds(clock, -90.0)) == (True, True)
    assert clock.now.width_s < 95


async def test_a_clock_that_was_not_seen_for_two_periods_is_forgotten() -> None:
    """After a jump the time before it stays possible for a while, not for ever."""
    clock = PlatformClock()
    await measure(clock)
    await measure(clock, ahead_s=-3600)
    await anyio.sleep(PERIOD_S - 10)
    await measure(clock, ahead_s=-3600)
    assert (holds(clock), holds(clock, -3600)) == (True, True)
    for _ in range(2):
        await anyio.sleep(PERIOD_S + 1)
        await measure(clock, ahead_s=-3600)
    assert (holds(clock), holds(clock, -3600)) == (False, True)


async def test_one_odd_stamp_does_not_move_it() -> None:
    """A first Run from the future would hide all later ones from a search; it only widens the window."""
    clock = PlatformClock()
    clock.note_start(datetime(9999, 12, 31, tzinfo=UTC), steady_time())
    assert holds(clock)
    await measure(clock)
    assert clock.now.earliest <= true_time(anyio.current_time())


async def test_a_moment_that_is_past_is_judged_by_what_is_known_now() -> None:
    """A start that was sent before the first measurement is dated by it."""
    clock, moment = PlatformClock(), steady_time()
    await anyio.sleep(30)
    await measure(clock)
    window = clock.at(moment)
    assert window.earliest <= true_time(moment) <= window.latest
    assert window.width_s < 0.5


@pytest.mark.parametrize("seed", range(20))
async def test_the_window_holds_the_true_time(seed: int) -> None:
    """Whatever the round trips and the waits between them, and however two clocks drift that are slewed."""
    chance = random.Random(seed)
    clock, drift = PlatformClock(), chance.uniform(-9e-4, 9e-4)
    for _ in range(200):
        await measure(clock, there_s=chance.expovariate(1), back_s=chance.expovariate(1), drift=drift)
        assert holds(clock, drift * anyio.current_time())
        await anyio.sleep(chance.choice([0.1, 10, 1000]))
        assert holds(clock, drift * anyio.current_time())


@pytest.mark.skipif(sys.platform != "linux", reason="this system's clocks are others")
async def test_a_suspend_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's clock stands still while the machine sleeps; the Runs' clock does not."""
    clock = PlatformClock()
    await measure(clock)
    assert holds(clock)
    real = time.clock_gettime
    asleep_s = {time.CLOCK_BOOTTIME: 8 * 3600}
    monkeypatch.setattr(time, "clock_gettime", lambda name: real(name) + asleep_s.get(name, 0))
    assert (holds(clock), holds(clock, 8 * 3600)) == (False, True)


async def test_a_contradiction_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, when it shows, and not for milliseconds."""
    noted: list[tuple[str, object]] = []

    class _Log:
        def warning(self, event: str, **values: object) -> None:
            noted.append((event, values))

    monkeypatch.setattr(platform_clock, "_log", _Log())
    clock = PlatformClock()
    for ahead_s in (0.0, 0.5, -90.0, -90.0):
        await measure(clock, ahead_s=ahead_s)
    assert [event for event, _ in noted] == ["clocks_of_runs_disagree"]
