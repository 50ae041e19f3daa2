"""Which addresses webhooks and the page scraper may reach, without a flag."""

import pytest

from batchrun.runtime.loopback import is_public


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("127.8.9.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::8.8.8.8", True),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::1", False),
        ("2001:0:7f00:1::1", False),
        ("fec0::1", False),
        ("::10.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
    ],
)
def test_only_addresses_of_the_internet_are_public(host: str, expected: bool) -> None:
    """Loopback, private, shared, link-local, multicast and mapped ones are not, nor what translates to one of them."""
    assert is_public(host) is expected
