"""Which requests a fault strikes: patterns of routes, and names for groups of them."""

_METHODS = frozenset({"*", "GET", "POST", "PUT", "DELETE"})
_STARTS = (
    "POST /v2/actor-tasks/*/runs",
    "POST /v2/actors/*/runs",
    "POST /v2/acts/*/runs",
    *(
        f"* /v2/{collection}/*/{verb}"
        for collection in ("actor-tasks", "actors", "acts")
        for verb in ("run-sync", "run-sync-get-dataset-items")
    ),
)
_RUN_LISTS = ("GET /v2/actor-runs", "GET /v2/actor-tasks/*/runs", "GET /v2/actors/*/runs", "GET /v2/acts/*/runs")
#: Names for groups of routes.
ROUTE_NAMES = {
    "all": ("* /v2/**",),
    "reads": ("GET /v2/**",),
    "writes": ("POST /v2/**", "PUT /v2/**", "DELETE /v2/**"),
    "starts": _STARTS,
    "run-lists": _RUN_LISTS,
    "runs": ("GET /v2/actor-runs/*",),
    "items": ("GET /v2/datasets/*/items", "GET /v2/actor-runs/*/dataset/items"),
}


def names_route(pattern: str, method: str, template: str) -> bool:
    """Return whether a pattern ("GET /v2/actor-runs/*") matches a route of the server, given by its template.

    `*` and `{anything}` match one segment, `**` at the end all that follow; the method `*` matches any.
    """
    wanted_method, _, path = pattern.partition(" ")
    if wanted_method not in ("*", method):
        return False
    wanted, segments = path.strip("/").split("/"), template.strip("/").split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        segments = segments[: len(wanted)]
    return len(wanted) == len(segments) and all(map(_fits, wanted, segments))


def _fits(wanted: str, segment: str) -> bool:
    return wanted == "*" or wanted.startswith("{") or wanted == segment


def checked_route(text: str) -> str:
    """Return a key of ROUTE_NAMES or a pattern as it is.

    Raises:
        ValueError: it is neither.
    """
    method, _, path = text.partition(" ")
    if text not in ROUTE_NAMES and (method not in _METHODS or not path.startswith("/v2")):
        names = ", ".join(ROUTE_NAMES)
        raise ValueError(f'must be a method and a path, like "GET /v2/actor-runs/*", or one of {names}')
    return text
