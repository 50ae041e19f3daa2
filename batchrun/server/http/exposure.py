"""Who can reach the server, and the warning about it. Pure."""

import ipaddress


def is_loopback(host: str) -> bool:
    """True if a server bound to `host` is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def exposure_warning(host: str, *, has_own_token: bool) -> str | None:
    """Return the warning for the person who starts the server; None if other machines cannot reach it."""
    if is_loopback(host):
        return None
    reach = f"the server listens at {host}: other machines can reach it, over plain HTTP"
    if has_own_token:
        return f"WARNING: {reach}; its token lets them run Actors here"
    return (
        f"WARNING: {reach}, WITHOUT A TOKEN OF YOUR OWN. Anyone who learns the generated one can run Actors, and so "
        "code, as you on this machine. Set one with --token-file or APIFY_TOKEN, or listen at 127.0.0.1"
    )
