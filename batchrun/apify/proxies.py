"""Which proxy leads to the API, by the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY.

A proxy never sees the token: it only tunnels TLS (CONNECT). This machine is reached without one, whatever the
environment says.
"""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from batchrun.errors import ConfigError
from batchrun.runtime.loopback import is_loopback_host

_DEFAULT_PORTS = {"http": 80, "https": 443}


def proxy_for(base_url: str, environ: Mapping[str, str], *, has_token: bool) -> str | None:
    """Return the proxy for an address, as `http://host:port`, with the credentials if it has any; None without one.

    The lower-case spelling of a variable comes first; an empty one turns the other spelling off.

    Raises:
        ConfigError: the proxy cannot be used. The message does not show it: it may hold a password.
    """
    address = urlsplit(base_url)
    host, port = address.hostname or "", address.port or _DEFAULT_PORTS.get(address.scheme, 0)
    if is_loopback_host(host) or _is_excepted(host, port, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    variable = _variable(address.scheme, environ)
    if variable is None:
        return None
    proxy = _checked(environ[variable].strip(), variable, host)
    if address.scheme == "http" and has_token:
        raise ConfigError(
            f"api.base_url is plain http and {variable} names a proxy, which would read the API token. Use an https"
            f" address, or NO_PROXY={host} to reach it without the proxy"
        )
    return proxy


def _variable(scheme: str, environ: Mapping[str, str]) -> str | None:
    for name in (f"{scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            # In a CGI program, HTTP_PROXY comes from a request's header (CVE-2016-1000110).
            if variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
                continue
            if variable in environ:
                if environ[variable].strip():
                    return variable
                break
    return None


def _checked(proxy: str, variable: str, host: str) -> str:
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    parts = urlsplit(proxy)
    if parts.scheme.lower().startswith("socks"):
        raise ConfigError(
            f"{variable} names a SOCKS proxy, and batchrun speaks to HTTP proxies only. Name an HTTP proxy"
            f" (http://host:port), or set NO_PROXY={host} to reach the API without one"
        )
    try:
        is_usable = parts.scheme.lower() in _DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        is_usable = False
    if not is_usable:
        raise ConfigError(f"{variable} is not the address of a proxy; write it as http://host:port")
    return proxy


def _is_excepted(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY names a host: by `*`, its name or domain, its address (each also with a port), its network."""
    return any(_matches(entry.lower(), host.lower(), port) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _is_in_network(host, entry)
    name, wanted_port = _split_port(entry)
    if wanted_port is not None and wanted_port != port:
        return False
    name = name.removeprefix("*").lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"\[(?P<ip>[^\]]+)\](?::(?P<port>\d+))?|(?P<name>[^:]+):(?P<name_port>\d+)", entry)
    if found is None:
        return entry, None
    digits = found["port"] or found["name_port"]
    return found["ip"] or found["name"], int(digits) if digits else None


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
