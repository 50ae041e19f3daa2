from functools import partial
from itertools import pairwise

import anyio
import pytest

from batchrun.apify.throttle import Throttle
from batchrun.engine.limits.start_gate import Start, StartGate
from batchrun.errors import ResourcesBusy
from batchrun.model import Mark, RunOptions
from batchrun.policy.full_account import stride
from batchrun.policy.token_bucket import Contenders, TokenBucket
from tests.support.scripted_api import TASK, Plan, ScriptedApi
from tests.support.start_gates import gate_of


async def granted(gate: StartGate) -> Start:
    """Return a start that must be let through."""
    start = await gate.next_start()
    assert start is not None
    return start


async def keep_starting(gate: StartGate, api: ScriptedApi) -> None:
    """Start Run after Run."""
    while (start := await gate.next_start()) is not None:
        try:
            run = await api.start_run(TASK, b"{}", RunOptions(), Mark("m"))
        except ResourcesBusy:
            gate.account_is_full(start)
            continue
        gate.started(start)
        while not (await api.get_run(run.id, wait_for_finish_s=60)).status.is_terminal:
            pass
        gate.over(start)


async def press(gate: StartGate, api: ScriptedApi, *, starters: int, for_s: float) -> None:
    """Let many children start Run after Run for a while."""
    async with anyio.create_task_group() as children:
        for _ in range(starters):
            children.start_soon(keep_starting, gate, api)
        await anyio.sleep(for_s)
        children.cancel_scope.cancel()


async def test_a_hidden_limit_is_found_and_held() -> None:
    """With 256 starters and 37 Runs allowed, 37 are live all the time and few are refused."""
    api = ScriptedApi(Plan(run_s=20, answer_after_s=0.05), capacity=37)
    gate = gate_of(380, burst=19)
    await press(gate, api, starters=256, for_s=600)
    assert api.peak == 37
    assert len(api.begun_at) >= 0.98 * 37 * 600 / 20.05


async def test_one_start_probes_for_all_while_the_account_is_full() -> None:
    """After the first rush, a thousand waiting starts make at most one refused start per second, later fewer."""
    api = ScriptedApi(Plan(run_s=1e6, answer_after_s=0.05), capacity=37)
    await press(gate_of(380, burst=19), api, starters=1000, for_s=600)
    later = [at for at in api.refused_at if at > 1.0]
    assert len(api.refused_at) - len(later) <= stride(37)
    gaps = [b - a for a, b in pairwise(later)]
    assert min(gaps) >= 1.0
    assert 60 <= len(later) <= 130  # every 5 to 10 seconds in the end


async def test_starts_whose_answers_are_lost_hold_up_no_other() -> None:
    """They show nothing about a limit, and are not in flight any more."""
    gate = gate_of()
    for _ in range(100):
        gate.unanswered(await granted(gate))
    assert gate.live == 100


async def test_runs_of_an_earlier_process_show_what_the_account_takes() -> None:
    """With fifty of them live, the next eight are let through at once."""
    gate = gate_of()
    for _ in range(50):
        gate.adopt()
    for _ in range(8):
        await granted(gate)
    with anyio.move_on_after(100) as waiting:
        await granted(gate)
    assert waiting.cancelled_caught


async def test_an_end_is_followed_by_a_start_at_once() -> None:
    """In a full account, a waiting start is let through when a Run ends, before the next probe is due."""
    api = ScriptedApi(lambda n: Plan(run_s=100 + n), capacity=3)
    await press(gate_of(), api, starters=10, for_s=110)
    assert api.begun_at == [
        0.0,
        pytest.approx(1e-6),
        pytest.approx(2e-6),
        101.0,
        pytest.approx(102),
        pytest.approx(103),
    ]


async def test_a_limit_that_is_raised_is_found_without_further_waits() -> None:
    """One probe that is taken opens the way for all."""
    api = ScriptedApi(Plan(run_s=1e6), capacity=5)
    gate = gate_of()
    async with anyio.create_task_group() as children:
        children.start_soon(lambda: press(gate, api, starters=50, for_s=130))
        await anyio.sleep(100)
        api.capacity = 40
    assert api.live == 40
    assert max(api.begun_at) <= 110.1


async def test_the_rate_is_kept_exactly() -> None:
    """Tokens come one interval apart, however many press."""
    gate, at = gate_of(10), list[float]()

    async def start() -> None:
        gate.started(await granted(gate))
        at.append(anyio.current_time())

    async with anyio.create_task_group() as children:
        for _ in range(50):
            children.start_soon(start)
    assert at == pytest.approx([n / 10 for n in range(50)])


async def test_starts_are_let_through_in_the_order_in_which_they_asked() -> None:
    """First come, first served."""
    gate, order = gate_of(10), list[int]()

    async def start(n: int) -> None:
        gate.started(await granted(gate))
        order.append(n)

    async with anyio.create_task_group() as children:
        for n in range(20):
            children.start_soon(start, n)
            await anyio.wait_all_tasks_blocked()
    assert order == list(range(20))


async def test_a_start_that_asks_just_as_a_run_ends_comes_after_those_that_waited() -> None:
    """What comes free is not taken from the start that has waited for it and is about to be woken."""
    gate, order = gate_of(), list[str]()
    full, live = await granted(gate), gate.adopt()
    gate.account_is_full(full)

    async def start(name: str) -> None:
        gate.started(await granted(gate))
        order.append(name)

    async with anyio.create_task_group() as children:
        children.start_soon(start, "waits")
        await anyio.sleep(0.25)
        gate.over(live)
        await start("comes")
    assert order == ["waits", "comes"]


async def test_a_gate_that_asks_just_as_a_token_comes_leaves_it_to_the_one_that_waited() -> None:
    """Of two gates with one rate, the one that had the last token does not take the next one from the other."""
    bucket, contenders, order = TokenBucket(rate_per_s=1), Contenders(), list[str]()
    last, other = (gate_of(bucket=bucket, contenders=contenders) for _ in range(2))
    await granted(last)

    async def start(gate: StartGate, name: str, *, after_s: float = 0.0) -> None:
        await anyio.sleep(after_s)
        await granted(gate)
        order.append(name)

    async with anyio.create_task_group() as children:
        children.start_soon(partial(start, last, "comes", after_s=1.0))  # its timer is set, and fires, first
        children.start_soon(start, other, "waits")
    assert order == ["waits", "comes"]


async def test_one_429_holds_back_all_starts() -> None:
    """Closed for 30 seconds, the gate lets no start through; then they come at the rate, without a burst."""
    gate, at = gate_of(10, burst=5), list[float]()
    gate.try_later(await granted(gate), 30)

    async def start() -> None:
        gate.started(await granted(gate))
        at.append(anyio.current_time())

    async with anyio.create_task_group() as children:
        for _ in range(10):
            children.start_soon(start)
    assert at == pytest.approx([30 + n / 10 for n in range(10)])
    assert gate.live == 10


async def test_a_429_holds_back_a_start_that_waits_for_its_token() -> None:
    """A reservation made before the closure does not slip through it."""
    gate, at = gate_of(1), list[float]()
    first = await granted(gate)

    async def start() -> None:
        gate.started(await granted(gate))
        at.append(anyio.current_time())

    async with anyio.create_task_group() as children:
        children.start_soon(start)
        await anyio.sleep(0.5)
        gate.try_later(first, 20)
    assert at == [20.5]


async def test_refusals_of_one_moment_close_the_gate_once() -> None:
    """Three 429 in flight together are one closure, so the wait is not doubled three times."""
    gate = gate_of()
    starts = [await granted(gate) for _ in range(3)]
    for start in starts:
        gate.try_later(start, None)
    begun = anyio.current_time()
    await granted(gate)
    assert anyio.current_time() - begun <= 1.0


async def test_closings_in_a_row_last_longer_up_to_half_a_minute() -> None:
    """While nothing can be started, asking gets rarer; one success resets the backoff."""
    gate, waits = gate_of(), list[float]()
    for _ in range(12):
        begun = anyio.current_time()
        start = await granted(gate)
        waits.append(anyio.current_time() - begun)
        gate.try_later(start, None)
    assert 15 <= waits[-1] <= 30
    gate.started(await granted(gate))
    gate.try_later(await granted(gate), None)
    begun = anyio.current_time()
    await granted(gate)
    assert anyio.current_time() - begun <= 1.0


@pytest.mark.parametrize("blocked_by", ["rate", "capacity", "closure", "queue", "account"])
async def test_shut_wakes_all_waiting_starts(blocked_by: str) -> None:
    """Whatever they wait for, no more starts means an answer at once: None."""
    account = Throttle(TokenBucket(rate_per_s=1e6))
    gate = gate_of(0.001 if blocked_by == "rate" else 1e6, throttle=account)
    starts = list[Start | None]()
    first = await granted(gate)
    if blocked_by == "account":
        account.refused(1000)
    if blocked_by == "capacity":
        gate.account_is_full(first)
    if blocked_by == "closure":
        gate.try_later(first, 1000)

    async def start() -> None:
        starts.append(await gate.next_start())

    async with anyio.create_task_group() as children:
        for _ in range(1 if blocked_by != "queue" else 5):
            children.start_soon(start)
        await anyio.sleep(0.1)
        starts.clear()
        shut_at = anyio.current_time()
        gate.shut()
    assert anyio.current_time() == shut_at
    assert not [each for each in starts if each is not None]
    assert await gate.next_start() is None


async def test_cancelled_while_waiting_the_count_of_live_runs_stays_right() -> None:
    """A start that gives up leaves nothing behind; the next one is let through. A second `over` counts nothing."""
    gate = gate_of(1)
    first = await granted(gate)
    with anyio.move_on_after(0.5):
        await gate.next_start()
    assert gate.live == 1
    second = await granted(gate)
    assert gate.live == 2
    gate.over(first)
    gate.over(second)
    gate.over(first)
    assert gate.live == 0


async def test_a_run_of_an_earlier_process_counts_as_live() -> None:
    """Adopted, it counts against what the account takes."""
    gate = gate_of()
    full = await granted(gate)
    adopted = gate.adopt()
    gate.account_is_full(full)
    begun = anyio.current_time()
    async with anyio.create_task_group() as children:
        children.start_soon(granted, gate)
        await anyio.sleep(0.25)
        gate.over(adopted)
    assert (gate.live, anyio.current_time() - begun) == (1, 0.25)


async def test_each_way_to_end_a_start_counts_it_once() -> None:
    """A refused start is over, and `over` after that changes nothing; an unanswered one may be live."""
    gate = gate_of()
    starts = [await granted(gate) for _ in range(4)]
    gate.account_is_full(starts[0])
    gate.over(starts[0])
    gate.try_later(starts[1], None)
    gate.over(starts[1])
    gate.unanswered(starts[2])
    assert gate.live == 2
    gate.over(starts[2])
    assert gate.live == 1


async def test_the_end_of_a_former_probes_run_lets_no_second_probe_go() -> None:
    """One prober for the batch: while its answer is out, the end of an earlier probe's Run lets no start through."""
    gate = gate_of()
    gate.account_is_full(await granted(gate))
    first = await granted(gate)
    gate.started(first)
    second = await granted(gate)  # a probe, and its answer takes long
    gate.over(first)
    with anyio.move_on_after(100) as waiting:
        await gate.next_start()
    assert waiting.cancelled_caught
    gate.over(second)


async def test_a_start_waits_for_the_request_rate_of_the_account_too() -> None:
    """A start that is let through may be sent at once: the account's rate has been waited for."""
    account = Throttle(TokenBucket(rate_per_s=10))
    gate, at = gate_of(1e6, throttle=account), list[float]()
    for _ in range(3):
        await granted(gate)
        await account.take_token()  # somebody polls in between
        at.append(anyio.current_time())
    assert at == pytest.approx([0.1, 0.3, 0.5])


async def test_given_up_while_the_account_is_waited_for_no_start_is_counted_and_no_token_gone() -> None:
    """The next one starts as soon as the account allows."""
    account = Throttle(TokenBucket(rate_per_s=1e6))
    gate = gate_of(0.01, throttle=account)
    account.refused(60)
    with anyio.move_on_after(30):
        await gate.next_start()
    await granted(gate)
    assert (anyio.current_time(), gate.live) == (60, 1)


async def test_a_refusal_that_comes_while_one_waits_for_its_token_makes_it_wait_for_its_probe() -> None:
    """It does not follow the refused one at its heels, and its token is not spent."""
    gate, at = gate_of(10), list[float]()
    first = await granted(gate)

    async def start() -> None:
        gate.started(await granted(gate))
        at.append(anyio.current_time())

    async with anyio.create_task_group() as children:
        children.start_soon(start)
        await anyio.sleep(0.05)
        gate.account_is_full(first)
    assert 1.05 <= at[0] <= 2.05


async def test_an_announced_limit_paces_starts() -> None:
    """A platform that allows 4 starts per second gets 3.8, however many were asked for."""
    gate, at = gate_of(380, burst=19), list[float]()
    gate._bucket.stay_below(4)
    for _ in range(4):
        await granted(gate)
        at.append(anyio.current_time())
    assert at == pytest.approx([n / 3.8 for n in range(4)])
