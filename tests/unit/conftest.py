"""Unit tests run on virtual time."""

import pytest

from tests.support.virtual_time import VirtualTimeLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Give anyio the loop whose clock jumps."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}
