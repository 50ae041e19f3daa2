import pytest

from batchrun.runtime.loopback import at_page_host, network_of


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


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.2", "loopback"),
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_addresses_that_one_caller_has_at_will_are_one(address: str, network: str) -> None:
    """Limits of callers without a token count them together."""
    assert network_of(address) == network
