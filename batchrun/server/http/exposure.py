"""Who can reach the server, and what is to be said about that. Pure."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def exposure_warning(host: str, *, has_own_token: bool) -> str | None:
    """Return what whoever starts the server must be told; None when nobody else can reach it.

    Args:
        host: what it is bound to.
        has_own_token: whether a token was chosen, and not made for the occasion.
    """
    if is_loopback(host):
        return None
    reach = f"the server listens at {host}: other machines can reach it, over plain HTTP"
    if has_own_token:
        return f"WARNING: {reach}; its token lets them run Actors here"
    return (
        f"WARNING: {reach}, WITHOUT A TOKEN OF YOUR OWN. Whoever learns the one that was made runs Actors, and so "
        "code, as you on this machine. Give one with --token or APIFY_TOKEN, or listen at 127.0.0.1"
    )
