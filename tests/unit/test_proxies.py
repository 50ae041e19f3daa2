"""Which proxy the environment names for the API, and which it must not be."""

import pytest

from batchrun.apify.proxies import proxy_for
from batchrun.errors import ConfigError
from batchrun.runtime.loopback import is_loopback_host

API = "https://api.example.com"
PROXY = "http://proxy.example.com:3128"


def proxy(url: str = API, *, has_token: bool = True, **environ: str) -> str | None:
    """Return the proxy for an address."""
    return proxy_for(url, environ, has_token=has_token)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, None),
        ({"http_proxy": PROXY}, None),
        ({"ALL_PROXY": PROXY}, PROXY),
        ({"all_proxy": PROXY, "HTTPS_PROXY": "http://first:1"}, "http://first:1"),
        ({"HTTPS_PROXY": "proxy.example.com:3128"}, PROXY),
        ({"HTTPS_PROXY": "https://proxy.example.com"}, "https://proxy.example.com"),
        ({"HTTPS_PROXY": "http://me:p%40ss@proxy:1"}, "http://me:p%40ss@proxy:1"),
    ],
)
def test_the_variable_for_https_comes_before_the_one_for_all(environ: dict[str, str], found: str | None) -> None:
    """The lower-case spelling comes first; an address may lack its scheme."""
    assert proxy_for(API, environ, has_token=True) == found


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("*", API, True),
        ("other, *", API, True),
        ("api.example.com", API, True),
        ("API.Example.com", API, True),
        ("example.com", API, True),
        (".example.com", API, True),
        ("*.example.com", API, True),
        ("ample.com", API, False),
        ("other.com example.com", API, True),
        ("api.example.com:443", API, True),
        ("api.example.com:8443", API, False),
        ("api.example.com:8443", f"{API}:8443", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.0.0.0/8", API, False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("10.1.2.3:443", "https://10.1.2.3", True),
        ("fd00::/8", "https://[fd00::1]", True),
        ("[fd00::1]", "https://[fd00::1]", True),
        ("[fd00::1]:443", "https://[fd00::1]", True),
        ("fd00::1", "https://[fd00::1]", True),
        ("nonsense/8", API, False),
        ("", API, False),
    ],
)
def test_no_proxy_names_hosts_domains_ports_and_networks(no_proxy: str, url: str, is_direct: bool) -> None:
    """As other programs read it."""
    assert (proxy(url, HTTPS_PROXY=PROXY, NO_PROXY=no_proxy) is None) is is_direct


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "x.localhost", "LOCALHOST."])
def test_this_machine_is_reached_without_a_proxy(host: str) -> None:
    """Whatever the environment says: a proxy cannot reach this machine's own server."""
    for scheme in ("http", "https"):
        assert proxy(f"{scheme}://{host}:8000", HTTP_PROXY=PROXY, HTTPS_PROXY=PROXY, ALL_PROXY="socks5://x:1") is None


@pytest.mark.parametrize("host", ["127.example.com", "localhost.example.com", "128.0.0.1", ""])
def test_a_name_that_looks_like_this_machine_is_another(host: str) -> None:
    """127.example.com may be anywhere."""
    assert not is_loopback_host(host)


def test_a_token_never_goes_through_a_proxy_in_clear() -> None:
    """A proxy for plain http would read it; without a token it may be used."""
    with pytest.raises(ConfigError, match=r"HTTP_PROXY names a proxy, which would read the API token.*NO_PROXY=host"):
        proxy("http://host", HTTP_PROXY=PROXY)
    assert proxy("http://host", HTTP_PROXY=PROXY, has_token=False) == PROXY


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "SOCKS"])
def test_a_socks_proxy_is_refused_in_words(scheme: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigError, match=r"ALL_PROXY names a SOCKS proxy.*NO_PROXY=api.example.com"):
        proxy(ALL_PROXY=f"{scheme}://me:secret@proxy:1080")


@pytest.mark.parametrize(
    "value", ["http://", "ftp://proxy:1", "http://proxy:port", "http://me:secret@:1", "http://proxy:0"]
)
def test_what_is_no_address_is_refused_without_showing_it(value: str) -> None:
    """It may hold a password."""
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY is not the address of a proxy; write it as http://host:port$"):
        proxy(HTTPS_PROXY=value)
