from hypothesis import given
from hypothesis import strategies as st

from batchrun.jobs import Shard
from tests.support.memory_ledger import make_bad_line, make_job


def numbers(*keys: str, count: int = 8) -> list[int]:
    """Return the number of the shard of each key."""
    shards = [Shard(number, count) for number in range(1, count + 1)]
    return [next(shard.number for shard in shards if shard.has(make_job(key=key))) for key in keys]


def test_a_key_stays_in_its_shard() -> None:
    """The division of batches that earlier versions have begun: this test must never be changed."""
    assert numbers("a", "b", "sku-1", "sku-2", "Größe", "0f" * 16) == [3, 3, 6, 3, 7, 8]
    assert numbers("a", "sku-1", count=3) == [2, 2]


@given(st.text(min_size=1), st.integers(1, 64))
def test_every_key_is_in_one_shard(key: str, count: int) -> None:
    """Whatever the key, and however many shards there are."""
    assert sum(Shard(number, count).has(make_job(key=key)) for number in range(1, count + 1)) == 1


def test_every_bad_line_is_in_one_shard() -> None:
    """It has no key; its number decides."""
    for line in range(1, 50):
        assert sum(Shard(number, 8).has(make_bad_line(line)) for number in range(1, 9)) == 1


def test_shards_are_about_equal() -> None:
    """Keys that differ by a number only are spread all the same."""
    found = numbers(*(f"sku-{n}" for n in range(8000)))
    assert all(900 < found.count(number) < 1100 for number in range(1, 9))
