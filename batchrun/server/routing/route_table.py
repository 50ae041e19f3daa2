"""All routes by method and path. Unlike aiohttp's router, the table answers 404 and 405 in the API's words."""

from dataclasses import dataclass, field
from urllib.parse import unquote

from batchrun.server.accounts.rate_limits import PER_RESOURCE
from batchrun.server.error_answers import method_not_allowed, route_missing
from batchrun.server.routing.call import Handler, Route


@dataclass(slots=True)
class _Node:
    literal: "dict[str, _Node]" = field(default_factory=dict)
    parameter: "tuple[str, _Node] | None" = None
    routes: dict[str, Route] = field(default_factory=dict)


class RouteTable:
    """A tree of path segments; `{name}` matches one segment."""

    def __init__(self) -> None:
        self._root = _Node()
        #: Method and path of every route, in order of addition; the values mean nothing.
        self.served: dict[tuple[str, str], None] = {}

    def add(
        self,
        methods: str,
        path: str,
        handler: Handler,
        *,
        per_s: int = PER_RESOURCE,
        needs_token: bool = True,
        reads_much: bool = False,
    ) -> None:
        """Serve methods ("GET POST") on a path."""
        node = self._root
        for segment in path.strip("/").split("/"):
            node = _child(node, segment)
        for method in methods.split():
            assert method not in node.routes, f"{method} {path} is served twice"
            node.routes[method] = Route(
                handler=handler, per_s=per_s, needs_token=needs_token, path=path, reads_much=reads_much
            )
            self.served[method, path] = None

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """Return the route and the decoded path parameters."""
        arguments: dict[str, str] = {}
        node = self._root
        for segment in raw_path.strip("/").split("/"):
            if (literal := node.literal.get(segment)) is not None:
                node = literal
            elif node.parameter is not None and segment:
                name, node = node.parameter
                arguments[name] = unquote(segment)
            else:
                raise route_missing(raw_path)
        if not node.routes:
            raise route_missing(raw_path)
        route = node.routes.get(method) or (node.routes.get("GET") if method == "HEAD" else None)
        if route is None:
            raise method_not_allowed(method, sorted(node.routes))
        return route, arguments


def _child(node: _Node, segment: str) -> _Node:
    if not segment.startswith("{"):
        if segment not in node.literal:
            node.literal[segment] = _Node()
        return node.literal[segment]
    if node.parameter is None:
        node.parameter = (segment[1:-1], _Node())
    name, child = node.parameter
    assert name == segment[1:-1], f"{segment} has another name elsewhere"
    return child
