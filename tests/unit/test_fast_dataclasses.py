"""Our `dataclass` and `replace` act like the standard library's, except that values are not frozen at run time."""

import dataclasses
from collections.abc import Callable
from typing import Any

from batchrun.model import Position
from batchrun.runtime import fast_dataclasses
from batchrun.runtime.fast_dataclasses import replace

POSITION = Position(line=1, offset=2, length=3)


def test_a_replaced_value_is_a_new_one() -> None:
    """Fields that are not named are kept; the original is unchanged."""
    assert (
        replace(POSITION, variant=4)
        == dataclasses.replace(POSITION, variant=4)
        == Position(line=1, variant=4, offset=2, length=3)
    )
    assert Position(line=1, variant=0, offset=2, length=3) == POSITION


def test_equal_values_hash_alike() -> None:
    """They can be dictionary keys, like frozen ones."""
    assert {POSITION: "here"}[replace(POSITION)] == "here"


def test_a_value_is_shown_like_one_of_the_standard_library() -> None:
    """Fields that are not to be shown, like secrets, are left out; a class may show itself in its own way."""

    def shown(dataclass: Callable[..., Any]) -> str:
        @dataclass(frozen=True, kw_only=True)
        class Login:
            name: str
            ports: tuple[int, ...] = (1, 2)
            token: str = dataclasses.field(default="secret", repr=False)

        return repr(Login(name="ann"))

    assert shown(fast_dataclasses.dataclass) == shown(dataclasses.dataclass)
    assert "secret" not in shown(fast_dataclasses.dataclass)
