import batchrun


def test_everything_public_can_be_imported():
    """Each name of `__all__` exists, and none is promised twice."""
    assert sorted(set(batchrun.__all__)) == sorted(batchrun.__all__)
    assert [name for name in batchrun.__all__ if not hasattr(batchrun, name)] == []


def test_an_unknown_name_is_an_attribute_error():
    """What is not public is not there."""
    assert not hasattr(batchrun, "frobnicate")
