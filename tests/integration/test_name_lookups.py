"""Slow names of one owner are nobody else's trouble."""

import socket
import threading

import anyio
import pytest

from batchrun.apify.local_names import LocalNames
from batchrun.runtime.name_lookups import _MAX_AT_ONCE, NameLookups
from tests.support.slow_names import slow_names, until_looked_up


@pytest.mark.parametrize("owner", [NameLookups, LocalNames])
async def test_look_ups_that_nobody_waits_for_keep_their_owners_places_only(
    owner: type[NameLookups] | type[LocalNames],
) -> None:
    """However many are given up, an owner has so many threads; another's names are looked up meanwhile."""
    busy, other = owner(), NameLookups()
    with slow_names(known=["127.0.0.9"]) as asked:
        async with anyio.create_task_group() as children:
            for number in range(2 * _MAX_AT_ONCE):
                children.start_soon(busy.resolve, f"slow-{number}")
            await anyio.wait_all_tasks_blocked()
            children.start_soon(busy.resolve, "known")
            assert await other.find("known") == [(socket.AF_INET, "127.0.0.9")]
            threads = [each for each in threading.enumerate() if each.name == "look-up" and each.is_alive()]
            assert all(each.daemon for each in threads), "no process waits for them to end"
            await until_looked_up(asked, _MAX_AT_ONCE + 1)
            children.cancel_scope.cancel()
        async with anyio.create_task_group() as children:
            children.start_soon(busy.resolve, "known")
            await anyio.wait_all_tasks_blocked()
            assert (len(asked), asked.count("known")) == (_MAX_AT_ONCE + 1, 1)
            children.cancel_scope.cancel()
    assert [each["host"] for each in await busy.resolve("127.0.0.1")] == ["127.0.0.1"], "they have ended"


async def test_a_name_that_cannot_be_looked_up_is_an_error() -> None:
    """One that no resolver knows, and one that is none; neither takes a place for good."""
    lookups = NameLookups()
    for _ in range(_MAX_AT_ONCE + 1):
        with pytest.raises(ValueError, match="label"):
            await lookups.find(f"{'x' * 64}.test")
    with pytest.raises(socket.gaierror):
        await lookups.find("999.999.999.999.")


async def test_a_link_local_address_keeps_its_interface() -> None:
    """It is reached by that one alone."""
    assert await NameLookups().find("fe80::1%1") == [(socket.AF_INET6, "fe80::1%1")]
