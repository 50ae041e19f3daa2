"""The User-Agent of our requests, and the mark in it."""

from batchrun.apify.user_agent import mark_of, user_agent
from batchrun.model import Mark


def test_the_user_agent_carries_the_mark() -> None:
    """Only if there is one."""
    assert (user_agent("1.0", Mark("m")), user_agent("1.0")) == ("batchrun/1.0 (m)", "batchrun/1.0")


def test_nothing_else_reads_as_a_mark() -> None:
    """Hostile User-Agents included."""
    assert [mark_of(text) for text in ("batchrun/1 (m)", "x batchrun/1 (m) proxy/2")] == ["m", "m"]
    assert [mark_of(text) for text in (None, "", "batchrun/1", "batchrun/1 ()", "curl (m)", "batchrun/1 (a b)")] == [
        None
    ] * 6
