"""Our dataclass and replace mean what the standard library's mean, but for what keeps a value from being changed."""

import dataclasses

from batchrun.model import Place
from batchrun.runtime.frozen import replace

PLACE = Place(line=1, offset=2, length=3)


def test_a_replaced_value_is_a_new_one() -> None:
    """Fields that are not named stay; the original does, too."""
    assert (
        replace(PLACE, variant=4)
        == dataclasses.replace(PLACE, variant=4)
        == Place(line=1, variant=4, offset=2, length=3)
    )
    assert Place(line=1, variant=0, offset=2, length=3) == PLACE


def test_equal_values_are_one_key() -> None:
    """They can be looked up by what they hold, like frozen ones."""
    assert {PLACE: "here"}[replace(PLACE)] == "here"
