"""Which host names mean this machine."""

import ipaddress


def is_loopback_host(host: str) -> bool:
    """True for `localhost`, names under it, and loopback addresses; False for a name that only looks like one."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
