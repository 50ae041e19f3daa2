"""Workers of a fleet that come, go and die: what all of them send together, on virtual time."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup

from batchrun.account.account import Account, Share
from batchrun.apify.throttle import Throttle
from batchrun.config import AccountLimitsConfig
from batchrun.model import TaskId
from batchrun.policy.budget import Budget
from batchrun.policy.token_bucket import TokenBucket, burst_of
from batchrun.worker.fleet.fleet_limits import WHOLE_RATE, Need, Resource
from batchrun.worker.fleet.fleet_members import Member
from batchrun.worker.fleet.own_member import OwnMember, Use
from batchrun.worker.fleet.shared_page import SharedPage
from tests.support.page_log import PageLog
from tests.support.scripted_api import ScriptedApi

#: Per second, of all workers together.
START_RATE, REQUEST_RATE = 380.0, 200.0
LEASE_S, CHANGES = 1.0, 40
TASK = TaskId("task")


@dataclass
class Sent:
    """When something was sent, by any worker."""

    starts: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)


class Peer:
    """A worker that sends as much as it may, as long as it has a batch."""

    def __init__(self, number: int, store: PageLog, sent: Sent, chance: random.Random) -> None:
        api = ScriptedApi()
        limits = AccountLimitsConfig(max_concurrent_runs=8, request_rate=REQUEST_RATE)
        self.throttle = Throttle(TokenBucket.at_rate(REQUEST_RATE))
        api.account = self.throttle  # type: ignore[assignment]  # it has none otherwise
        self.account = Account(api, api.info, limits, Budget(None), Path("/"), START_RATE)  # type: ignore[arg-type]
        self.pages, self.sent, self.chance = SharedPage(store), sent, chance
        self.member = OwnMember(f"m{number}", Member(name="", address="", lease_s=LEASE_S))
        self.is_busy = False
        self.share = Share(runs=0, memory_mb=None, rate=0.0)
        self.account.use_share(self.share)
        self.scope = anyio.CancelScope()

    async def run(self) -> None:
        """Follow the page and send, until it dies."""
        with self.scope:
            async with anyio.create_task_group() as children:
                for verb in (self._start, self._ask, self._look):
                    children.start_soon(verb)

    async def _look(self) -> None:
        while True:
            page = self.pages.read()
            now = anyio.current_time()
            assert self.member.see(page, now), "nobody is silent who lives"
            self._obey()
            need = Need(amount=WHOLE_RATE if self.is_busy else 20, lump=10, is_short=self.is_busy)
            use = Use(used={}, needs={Resource.RATE: need}, limits={Resource.RATE: WHOLE_RATE})
            after = self.member.propose(page, self.pages.number + 1, now, use)
            if after is not None and self.pages.replace(after):
                self.member.see(after, now)
                self._obey()
            await anyio.sleep(self.chance.uniform(0.002, 0.04))

    def _obey(self) -> None:
        rate = self.member.allowed(self.pages.page).get(Resource.RATE, 0) / WHOLE_RATE
        self.share = Share(runs=None, memory_mb=None, rate=rate)
        self.account.use_share(self.share)

    async def _start(self) -> None:
        while True:
            await self._pause()
            bucket = self.account.shared.start_bucket(TASK)
            while self.is_busy and self.share.rate > 0 and bucket.next_at(now := anyio.current_time()) <= now:
                bucket.take(now)
                self.sent.starts.append(now)

    async def _ask(self) -> None:
        while True:
            await self._pause()
            while self.is_busy and self.throttle.try_take_token():
                self.sent.requests.append(anyio.current_time())

    async def _pause(self) -> None:
        await anyio.sleep(self.chance.choice([0.001, 0.01, 0.1]))


def most_beyond(times: Sequence[float], rate_per_s: float) -> float:
    """Return by how much any window holds more than its length times the rate."""
    level, before, most = 0.0, times[0], 0.0
    for at in times:
        level = max(0.0, level - (at - before) * rate_per_s) + 1
        before, most = at, max(most, level)
    return most


async def live(peers: list[Peer], store: PageLog, sent: Sent, chance: random.Random, children: TaskGroup) -> None:
    """Let one worker after the other have all that there is to do; kill one now and then, and begin another one."""
    numbers = count()
    for _ in range(CHANGES):
        while len(peers) < 3:
            peers.append(Peer(next(numbers), store, sent, chance))
            children.start_soon(peers[-1].run)
            await anyio.sleep(0.1)
        for peer in peers:
            peer.is_busy = False
        for peer in chance.sample(peers, chance.choice([1, 1, 2])):
            peer.is_busy = True
        await anyio.sleep(chance.uniform(0.05, 0.6))
        if chance.random() < 0.1:
            peers.pop(chance.randrange(3)).scope.cancel()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
async def test_no_window_holds_more_starts_and_requests_than_the_account_allows(seed):
    """Of three workers that change places, and of whom some die, as of one: a burst, and the rate times the window.

    Each has at least one token in its bucket. A worker that is not on the page yet asks with 2 % of the rate.
    """
    store, sent = PageLog(), Sent()
    async with anyio.create_task_group() as children:
        await live([], store, sent, random.Random(seed), children)
        children.cancel_scope.cancel()
    assert most_beyond(sent.starts, START_RATE) <= burst_of(START_RATE) + 2 + 1e-6
    assert most_beyond(sent.requests, REQUEST_RATE * 1.02) <= burst_of(REQUEST_RATE) + 2 + 1e-6
    assert len(sent.starts) > START_RATE * anyio.current_time() / 4, "much of the rate is used"
