"""The start queue alone: which job is next, what it reserves, and when no job is left."""

from dataclasses import replace

import anyio
import pytest

from batchrun.engine.limits.account_pool import AccountPool
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.limits.permits import Permit, Permits
from batchrun.engine.start_queue import MAX_CHUNK, MAX_UNAFFORDABLE, MIN_CHUNK, StartQueue
from batchrun.engine.work import Postponed
from batchrun.model import RunOptions
from batchrun.policy.budget import Budget
from batchrun.policy.run_cost import Prices
from batchrun.runtime.change_signal import ChangeSignal
from tests.support.memory_ledger import make_job
from tests.support.start_gates import gate_of, permits_over, queue_over, work_of


async def taken(queue: StartQueue, permits: Permits) -> tuple[int, Permit] | None:
    """Take the next job with a new permit; return its line and the permit, or None at the end."""
    permit = await permits.acquire()
    assert permit is not None
    work = await queue.next(permit)
    return None if work is None else (work.job.position.line, permit)


async def lines_until_the_end(queue: StartQueue, permits: Permits) -> list[int]:
    """Take all jobs; return their lines."""
    lines = []
    while (job := await taken(queue, permits)) is not None:
        lines.append(job[0])
    return lines


def money_of(budget_usd: float) -> CostReservations:
    """Return cost reservations from which each start reserves the cap in its job's options."""
    return CostReservations(
        Budget(budget_usd), Prices(model="PAY_PER_EVENT"), task_options=RunOptions(), is_strict=True
    )


def capped(queue: StartQueue, *caps_usd: float) -> None:
    """Push a job for each cap, from line 1 on."""
    for line, cap_usd in enumerate(caps_usd, 1):
        queue.push(work_of(make_job(line, options=RunOptions(max_total_charge_usd=cap_usd))))


async def test_jobs_come_in_order_then_the_queue_ends_with_its_source() -> None:
    """Each job reserves its permit; at the end of the source `next` returns None."""
    permits = permits_over(gate_of(), 9)
    queue = queue_over(permits)
    for line in (1, 2, 3):
        queue.push(work_of(make_job(line)))
    queue.end_source()
    assert await lines_until_the_end(queue, permits) == [1, 2, 3]
    assert permits.reserved == 3


async def test_a_postponed_job_comes_when_it_is_due_and_before_the_others() -> None:
    """The end of the queue waits for it."""
    permits = permits_over(gate_of(), 9)
    queue = queue_over(permits)
    queue.postpone(Postponed(work_of(make_job(7)), 30.0))
    queue.end_source()
    assert not queue.has_work
    assert await lines_until_the_end(queue, permits) == [7]
    assert anyio.current_time() == 30.0
    queue.push(work_of(make_job(8)))
    queue.postpone(Postponed(work_of(make_job(9)), 0.0))
    assert await lines_until_the_end(queue, permits) == [9, 8]


async def test_a_ready_job_is_taken_in_the_same_turn_of_the_loop_though_another_child_waits() -> None:
    """The child that waits for a change has its turn later: jobs do not pass one by one, each in a turn of the loop."""
    permits = permits_over(gate_of(), 9)
    queue = queue_over(permits)
    asked = await permits.acquire()
    assert asked is not None
    async with anyio.create_task_group() as children:
        children.start_soon(taken, queue, permits)
        await anyio.wait_all_tasks_blocked()
        queue.push(work_of(make_job(1)))
        taking = queue.next(asked)
        with pytest.raises(StopIteration) as ended:
            taking.send(None)  # it would yield to the loop here
        assert ended.value.value.job.position.line == 1
        queue.end_source()


async def test_a_job_that_comes_while_a_child_waits_is_taken_at_once() -> None:
    """An empty queue whose source goes on is waited for."""
    permits = permits_over(gate_of(), 9)
    queue, lines = queue_over(permits), list[int]()

    async def wait() -> None:
        lines.extend(await lines_until_the_end(queue, permits))

    async with anyio.create_task_group() as children:
        children.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        queue.push(work_of(make_job(4)))
        await anyio.wait_all_tasks_blocked()
        assert lines == []
        queue.end_source()
    assert lines == [4]


async def test_a_stopped_queue_and_a_stopped_group_give_out_no_more_jobs() -> None:
    """A stopped group's jobs are dropped, now and later; a stopped queue ends."""
    permits = permits_over(gate_of(), 9)
    queue = queue_over(permits)
    for line, group in ((1, "a"), (2, "b"), (3, "a")):
        queue.push(work_of(make_job(line, group=group)))
    queue.stop_group("a")
    queue.push(work_of(make_job(4, group="a")))
    job = await taken(queue, permits)
    assert job is not None
    assert job[0] == 2
    queue.push(work_of(make_job(5)))
    queue.stop()
    assert not queue.has_work
    assert await taken(queue, permits) is None


async def test_a_start_waits_for_money_that_another_may_release() -> None:
    """Two caps of 6 dollars do not fit into 10 at the same time."""
    permits, reservations = permits_over(gate_of(), 9), money_of(10)
    queue = queue_over(permits, reservations=reservations)
    capped(queue, 6, 6)
    queue.end_source()
    assert await taken(queue, permits) is not None
    with anyio.move_on_after(100) as waiting:
        await taken(queue, permits)
    assert waiting.cancelled_caught
    reservations.settle(6, 1)
    job = await taken(queue, permits)
    assert job is not None
    assert (job[0], reservations.budget.reserved_usd, queue.is_out_of_budget) == (2, 6, False)


async def test_jobs_that_can_never_be_paid_for_are_left_and_after_many_of_them_the_queue_gives_up() -> None:
    """A job above the whole budget does not stop a cheaper one behind it."""
    permits = permits_over(gate_of(), 999)
    queue = queue_over(permits, reservations=money_of(10))
    capped(queue, 11, 1)
    job = await taken(queue, permits)
    assert job is not None
    assert (job[0], queue.is_out_of_budget, queue.has_given_up_on_budget) == (2, True, False)
    capped(queue, *[11] * MAX_UNAFFORDABLE)
    assert await taken(queue, permits) is None
    assert queue.has_given_up_on_budget


async def test_a_batch_that_can_pay_for_no_job_lets_the_next_one_go() -> None:
    """It is the first to be called when a permit of the account comes free, and takes none."""
    pool, batches = AccountPool(1), list[tuple[StartQueue, Permits]]()
    for reservations in (None, money_of(10), None):
        changed = ChangeSignal()
        permits = permits_over(gate_of(), pool=pool, changed=changed)
        batches.append((queue_over(permits, reservations=reservations, changed=changed), permits))
    (first, _), (poor, _), (last, permits_of_last) = batches
    for queue in (first, last):
        queue.push(work_of(make_job()))
    capped(poor, 11)
    live = await taken(*batches[0])
    assert live is not None
    async with anyio.create_task_group() as children:
        for batch in batches[1:]:
            children.start_soon(taken, *batch)
            await anyio.wait_all_tasks_blocked()
        live[1].release()
        await anyio.wait_all_tasks_blocked()
        assert (poor.is_out_of_budget, permits_of_last.reserved) == (True, 1)
        children.cancel_scope.cancel()


async def test_lines_are_wanted_while_few_jobs_are_ready() -> None:
    """A chunk is as large as the number of permits, within bounds; half a chunk of ready jobs is enough."""
    for count, chunk in ((1, MIN_CHUNK), (100, 100), (5000, MAX_CHUNK)):
        queue = queue_over(permits_over(gate_of(), count))
        assert (queue.wants_more, queue.wanted_lines) == (True, chunk)
        for line in range(1, chunk // 2 + 2):
            queue.push(work_of(make_job(line)))
        assert not queue.wants_more


async def test_several_chunks_of_small_jobs_are_kept_ready_where_an_admission_takes_long() -> None:
    """The first admission is of one chunk, before anything is known of the jobs; large ones get no more."""
    queue = queue_over(permits_over(gate_of(), 100), chunks_ready=4)
    assert (queue.wants_more, queue.wanted_lines) == (True, 100)
    for line in range(1, 101):
        queue.push(work_of(make_job(line)))
    assert (queue.wants_more, queue.wanted_lines) == (True, 300)
    for line in range(101, 202):
        queue.push(work_of(make_job(line)))
    assert not queue.wants_more
    large = queue_over(permits_over(gate_of(), 100), chunks_ready=4)
    for line in range(1, 52):
        large.push(work_of(replace(make_job(line), body=b"x" * 30_000)))
    assert not large.wants_more
