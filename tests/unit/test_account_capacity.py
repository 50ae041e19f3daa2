"""How many Runs the account takes: reported, configured, or found by trying."""

from batchrun.engine.limits.account_capacity import FIRST_SLOTS, MAX_GROWN_SLOTS, AccountCapacity
from batchrun.engine.limits.account_pool import AccountPool


class _Gate:
    """A gate that notes when it is woken."""

    def __init__(self, woken: list[str], name: str, rank: float) -> None:
        self._woken, self._name, self._rank = woken, name, rank

    def rank(self) -> tuple[float, ...]:
        return (self._rank,)

    def wake(self) -> None:
        self._woken.append(self._name)


def start(account: AccountCapacity, count: int) -> None:
    """Have the account accept this many starts, one after the other."""
    for _ in range(count):
        account.live += 1
        account.accepted_start()


async def test_an_unknown_limit_doubles_with_accepted_starts_up_to_the_largest_account() -> None:
    """After n accepted starts, 2n Runs may be live; never more than the largest documented limit."""
    pool = AccountPool(FIRST_SLOTS)
    account = AccountCapacity(pool)
    start(account, 5)
    assert pool.limit == 10
    start(account, MAX_GROWN_SLOTS)
    assert pool.limit == MAX_GROWN_SLOTS


async def test_after_a_refusal_an_unknown_limit_grows_by_one() -> None:
    """The account was full with 4 Runs: the next accepted start allows one more."""
    pool = AccountPool(FIRST_SLOTS)
    account = AccountCapacity(pool)
    start(account, 2)
    account.capacity.refused(0.0, 4, is_probe=False, sent_at=0.0, uniform=0.5)
    start(account, 2)
    assert pool.limit == 5


async def test_the_smaller_of_the_reported_and_the_configured_number_holds() -> None:
    """A reported limit replaces growth; a configured number below it comes first."""
    pool = AccountPool(FIRST_SLOTS)
    account = AccountCapacity(pool)
    account.set_limit(25)
    start(account, 20)
    assert (pool.limit, account.capacity.allowed) == (25, 25)
    account.want(7)
    account.set_limit(25)
    assert pool.limit == 7
    account.set_limit(None)
    assert (pool.limit, account.capacity.allowed) == (7, None)


async def test_gates_are_woken_in_the_order_of_their_rank() -> None:
    """Whenever capacity may have come free, and no more once a gate has left."""
    woken = list[str]()
    account = AccountCapacity(AccountPool(1), 1)
    second, first = _Gate(woken, "second", 2.0), _Gate(woken, "first", 1.0)
    account.join(second)
    account.join(first)
    account.wake()
    account.leave(first)
    account.wake()
    assert woken == ["first", "second", "second"]
