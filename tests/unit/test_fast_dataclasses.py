"""Our dataclass and replace mean what the standard library's mean, but for what keeps a value from being changed."""

import dataclasses

from batchrun.model import Position
from batchrun.runtime.fast_dataclasses import replace

POSITION = Position(line=1, offset=2, length=3)


def test_a_replaced_value_is_a_new_one() -> None:
    """Fields that are not named stay; the original does, too."""
    assert (
        replace(POSITION, variant=4)
        == dataclasses.replace(POSITION, variant=4)
        == Position(line=1, variant=4, offset=2, length=3)
    )
    assert Position(line=1, variant=0, offset=2, length=3) == POSITION


def test_equal_values_are_one_key() -> None:
    """They can be looked up by what they hold, like frozen ones."""
    assert {POSITION: "here"}[replace(POSITION)] == "here"
