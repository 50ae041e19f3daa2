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


def test_the_first_object_and_the_next_ones_are_made_like_those_of_the_standard_library() -> None:
    """By position and by name, with defaults, factories and inherited fields; a wrong argument is the same error."""

    def made(dataclass: Callable[..., Any], *, is_child_first: bool) -> list[object]:
        @dataclass(frozen=True, slots=True)
        class Shop:
            name: str
            tags: list[str] = dataclasses.field(default_factory=list)
            visits: int = dataclasses.field(default=0, init=False)

        @dataclass(frozen=True, slots=True, kw_only=True)
        class Chain(Shop):
            size: int = 1

        shop: Any = Shop  # called wrongly, too
        calls: list[Callable[[], Any]] = [
            lambda: Shop("a", ["b"]),
            lambda: Shop(name="a"),
            lambda: Chain("a", size=2),
            shop,
            lambda: shop("a", size=2),
        ]
        if is_child_first:
            calls.reverse()
        return [_outcome(call) for _ in range(2) for call in calls]

    for is_child_first in (False, True):
        ours = made(fast_dataclasses.dataclass, is_child_first=is_child_first)
        assert ours == made(dataclasses.dataclass, is_child_first=is_child_first)


def _outcome(call: Callable[[], Any]) -> object:
    try:
        return dataclasses.asdict(call())
    except TypeError as error:
        return str(error).partition("__init__")[2]
