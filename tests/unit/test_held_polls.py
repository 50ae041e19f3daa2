"""Polls that a gateway cuts: a Run's state is read all the same, and polls are held no longer than the way allows."""

import pytest

from batchrun.apify.held_polls import HeldPolls
from batchrun.model import RunId
from tests.support.scripted_session import Response, client_of, page

RUN = Response(data={"id": "run-1", "status": "RUNNING", "startedAt": "2026-01-01T00:00:00.000Z"})


@pytest.mark.parametrize(("after_s", "next_s"), [(0.5, 60), (5.0, 4), (2.0, 1), (70.0, 30)])
def test_what_was_cut_is_asked_for_shorter(after_s: float, next_s: int) -> None:
    """A failure at once says nothing of the length; one after the whole wait does not say when it was cut."""
    polls = HeldPolls()
    polls.cut(60, after_s)
    assert polls.wait_s(60) == next_s


def test_polls_that_last_are_held_longer_again() -> None:
    """One lost connection does not make short polls for good; a poll that was wanted short proves nothing."""
    polls = HeldPolls()
    polls.cut(60, 5.0)
    polls.lasted(2)
    assert polls.wait_s(60) == 4
    for _ in range(8):
        polls.lasted(polls.wait_s(60))
    assert polls.wait_s(60) == 60


def test_longer_polls_are_tried_less_often_if_they_are_lost_again() -> None:
    """Where polls of 6 seconds are swallowed, of 1,000 fewer than 25 are lost; many at once count as one."""
    polls, lost = HeldPolls(), 0
    for _ in range(1000):
        if (wait_s := polls.wait_s(60)) > 5:
            lost += 1
            for _ in range(3):
                polls.cut(wait_s, wait_s + 10.0)
        else:
            polls.lasted(wait_s)
    assert lost < 25


async def test_a_poll_that_fails_is_followed_by_a_read_that_waits_for_nothing() -> None:
    """So the Run's state is known, and its deadlines are judged, whatever cuts polls."""
    answers = iter([page(504), RUN])
    client, session = client_of(lambda _: next(answers))
    run = await client.get_run(RunId("run-1"), wait_for_finish_s=60)
    assert (run.id, [sent.query for sent in session.sent]) == ("run-1", ["waitForFinish=60", ""])
