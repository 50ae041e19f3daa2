"""Finds the handler of a method and path. Unlike aiohttp's router, it answers 404 and 405 in the API's words."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import unquote

from batchrun.server.error_answers import method_not_allowed, route_missing

H = TypeVar("H")


@dataclass(slots=True)
class _Node(Generic[H]):
    literal: "dict[str, _Node[H]]" = field(default_factory=dict)
    parameter: "tuple[str, _Node[H]] | None" = None
    handlers: dict[str, H] = field(default_factory=dict)


class Router(Generic[H]):
    """A tree of path segments; `{name}` matches one segment."""

    def __init__(self) -> None:
        self._root: _Node[H] = _Node()

    def add(self, method: str, path: str, handler: H) -> None:
        node = self._root
        for segment in path.strip("/").split("/"):
            node = self._child(node, segment)
        assert method not in node.handlers, f"{method} {path} is served twice"
        node.handlers[method] = handler

    def find(self, method: str, raw_path: str) -> tuple[H, dict[str, str]]:
        """Return the handler and the decoded path parameters."""
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
        if not node.handlers:
            raise route_missing(raw_path)
        handler = node.handlers.get(method) or (node.handlers.get("GET") if method == "HEAD" else None)
        if handler is None:
            raise method_not_allowed(method, sorted(node.handlers))
        return handler, arguments

    @staticmethod
    def _child(node: _Node[H], segment: str) -> _Node[H]:
        if not segment.startswith("{"):
            return node.literal.setdefault(segment, _Node())
        if node.parameter is None:
            node.parameter = (segment[1:-1], _Node())
        assert node.parameter[0] == segment[1:-1], f"{segment} has another name elsewhere"
        return node.parameter[1]
