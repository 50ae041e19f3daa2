import pytest

from batchrun.runtime.loopback import at_page_host


@pytest.mark.parametrize(
    ("address", "link"),
    [
        ("http://127.0.0.1:8421", "http://x.localhost:8421"),
        ("http://[::1]:8421", "http://x.localhost:8421"),
        ("http://0.0.0.0:8421", "http://127.0.0.1:8421"),
        ("http://[::]:8421", "http://[::1]:8421"),
        ("http://localhost", "http://x.localhost"),
        ("https://localhost:8443", "https://localhost:8443"),
        ("http://worker.example:8421", "http://worker.example:8421"),
    ],
)
def test_a_page_has_a_name_of_its_own_where_a_browser_finds_it(address: str, link: str) -> None:
    """At a loopback address, without a certificate, which would be for another name.

    Who listens at all addresses may be in a container: another user of its host has the other loopback addresses there.
    """
    assert at_page_host(address, "x.localhost") == link
