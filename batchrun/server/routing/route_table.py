"""All routes by method and path, each with its rate limit and whether it needs a token."""

from batchrun.server.accounts.rate_limits import PER_RESOURCE
from batchrun.server.routing.call import Handler, Route
from batchrun.server.routing.router import Router


class RouteTable:
    def __init__(self) -> None:
        self.router: Router[Route] = Router()
        #: Method and path of every route, in order of addition.
        self.served: list[tuple[str, str]] = []

    def add(
        self, methods: str, path: str, handler: Handler, *, per_s: int = PER_RESOURCE, needs_token: bool = True
    ) -> None:
        """Serve methods ("GET POST") on a path."""
        route = Route(handler=handler, per_s=per_s, needs_token=needs_token, path=path)
        for method in methods.split():
            self.router.add(method, path, route)
            self.served.append((method, path))
