"""Where a worker is: an address that is shown holds no secret, and says whether its token can be read on the way."""

from pathlib import Path

import pytest

from batchrun.errors import ConfigError
from batchrun.worker.worker_address import WorkerAddress, find_worker


@pytest.mark.parametrize("url", ["http://me:SECRET@127.0.0.1:1", "me:SECRET@worker:8421", "SECRET@worker"])
def test_an_address_with_a_password_is_refused_and_not_shown(url: str) -> None:
    """It would be in each message about the worker."""
    with pytest.raises(ConfigError, match="must hold no password") as refused:
        find_worker(Path(), url, {"BATCHRUN_WORKER_TOKEN": "any"})
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "is_exposed"),
    [
        ("http://127.0.0.1:8421", False),
        ("http://[::1]:8421", False),
        ("http://localhost:8421", False),
        ("https://worker.example", False),
        ("http://192.0.2.2:8421", True),
        ("http://worker.example", True),
    ],
)
def test_a_token_is_exposed_over_plain_http_to_another_machine(url: str, is_exposed: bool) -> None:
    """The commands say so."""
    assert find_worker(Path(), url, {"BATCHRUN_WORKER_TOKEN": "any"}).exposes_token is is_exposed
    assert not WorkerAddress(url, socket=Path("socket")).exposes_token
