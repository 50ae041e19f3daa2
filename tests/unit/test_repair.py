import pytest

from batchrun.engine.collect import OUTPUT_GONE, Collected
from batchrun.errors import BatchRefused
from batchrun.maintenance.repair import refuse_unreadable
from batchrun.model import Problem


def test_items_that_cannot_be_read_now_keep_the_old_file_in_place() -> None:
    """A file that lacks them must not replace one that has them."""
    with pytest.raises(BatchRefused, match=r"dataset d cannot be read.* Nothing was changed"):
        refuse_unreadable(Collected(problem=Problem(type="output-unreadable", message="the dataset d cannot be read")))


def test_items_that_are_gone_for_good_do_not_keep_a_repair_from_the_others() -> None:
    """No later repair would find them."""
    refuse_unreadable(Collected(problem=Problem(type=OUTPUT_GONE, message="the dataset d cannot be read")))
    refuse_unreadable(Collected())
