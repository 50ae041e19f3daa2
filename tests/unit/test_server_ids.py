"""Ids as the server makes them."""

import re

from batchrun.server import ids


def test_ids_have_the_platforms_form_and_never_repeat() -> None:
    """17 letters and digits, each id another one."""
    made = [ids.new_id() for _ in range(1000)]
    assert all(re.fullmatch(r"[a-zA-Z0-9]{17}", made_id) for made_id in made)
    assert len(set(made)) == 1000


def test_ids_lie_in_the_order_of_their_time() -> None:
    """What is made an eighth of a second later sorts behind, until the beginning comes round again."""
    at_ms = 62**4 * 128 * 40
    prefixes = [ids._time_prefix(at_ms + n * 128) for n in range(5000)]
    assert prefixes[0] == "0000"
    assert prefixes == sorted(set(prefixes))
    assert ids._time_prefix(at_ms - 1) == "zzzz"
