"""The limit of open files, which bounds the connections of this process."""

import errno

try:
    import resource
except ImportError:  # Windows knows no such limit
    resource = None  # type: ignore[assignment]

#: File descriptors that polls leave for all else: starts, collecting, files, the embedded server.
RESERVED = 512
#: File descriptors that the connections of a server leave for its database, its files and its Actors.
SPARE = 128
#: File descriptors that a program asks the system for.
ENOUGH = 65_536

#: Errors of the operating system that say so.
TOO_MANY = (errno.EMFILE, errno.ENFILE)


def raise_limit() -> None:
    """Raise this process's limit of open files as far as its user may; for programs, not for libraries."""
    if resource is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def too_many_words() -> str:
    """Return what to do when the system refuses to open another file."""
    limit = ""
    if resource is not None:
        limit = f" of {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,}"
    return (
        f"too many open files: the limit{limit} is reached. Raise it (`ulimit -n 65536`, or LimitNOFILE= of a systemd"
        " unit) and run the same command again: nothing is lost"
    )


def connections_within_limit(wanted: int, *, eighths: int) -> int:
    """Return the max connections of a server: the wanted number, or its part of the open files that leave SPARE.

    One process may have the embedded server (5 eighths), a worker's HTTP API (1), and the proxy of Actors (1), where
    each connection needs another one to a site.
    """
    if resource is None:
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, (soft - SPARE) * eighths // 8))


def polls_within_limit(wanted: int, *, is_embedded: bool) -> int:
    """Return how many polls may be open at once: the wanted number, or as many as open files allow (logged).

    Those of an embedded server have both ends in this process.
    """
    if resource is None:
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = (soft - RESERVED) // (2 if is_embedded else 1)
    if soft == resource.RLIM_INFINITY or wanted <= most:
        return wanted
    import structlog  # noqa: PLC0415 - with all that it imports, a third of the time of a `status`

    possible = max(1, most)
    structlog.get_logger().warning("fewer_polls", wanted=wanted, possible=possible, open_files=soft)
    return possible
