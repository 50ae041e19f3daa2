"""Operations of the platform that this server does not offer: they answer 403 and what there is instead, not 404.

Official clients retry no 403; they retry each 5xx for minutes. An Actor cannot be created or changed by the API: its
source is a directory.
"""

from aiohttp import web

from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.routing.call import Call
from batchrun.server.routing.route_table import RouteTable

_ACTORS_ARE_DIRECTORIES = "Actors come from directories here (batchrun serve --actors DIR)"
_VARIABLES_ARE_IN_FILES = "an Actor's variables are environmentVariables of its .actor/actor.json"
_BUILT_AUTOMATICALLY = "each state of an Actor's directory becomes a build automatically"
_NO_SCHEDULES = (
    "this server has no schedules, nor has `batchrun worker`; cron can start Runs by POST"
    " /v2/actor-tasks/{actorTaskId}/runs"
)
_NO_STORE = "this server has no store; GET /v2/actors lists the Actors that it has"
_NOT_PUBLIC = "tasks are private here; GET /v2/actor-tasks/{actorTaskId} shows one to its account"
_NO_TOOLS = "this server has no tools; an Actor can sign and verify with a library of its own"
#: Methods, path, what there is instead. Routes that another module serves are skipped.
UNSERVED = (
    *(
        operation
        for actors in ("/v2/actors", "/v2/acts")
        for operation in (
            ("POST", actors, _ACTORS_ARE_DIRECTORIES),
            ("PUT DELETE", f"{actors}/{{actor}}", _ACTORS_ARE_DIRECTORIES),
            ("POST", f"{actors}/{{actor}}/versions", _ACTORS_ARE_DIRECTORIES),
            ("PUT DELETE", f"{actors}/{{actor}}/versions/{{version}}", _ACTORS_ARE_DIRECTORIES),
            ("POST", f"{actors}/{{actor}}/versions/{{version}}/env-vars", _VARIABLES_ARE_IN_FILES),
            ("PUT DELETE", f"{actors}/{{actor}}/versions/{{version}}/env-vars/{{variable}}", _VARIABLES_ARE_IN_FILES),
            ("POST", f"{actors}/{{actor}}/builds", _BUILT_AUTOMATICALLY),
        )
    ),
    ("GET POST", "/v2/schedules", _NO_SCHEDULES),
    ("GET PUT DELETE", "/v2/schedules/{schedule}", _NO_SCHEDULES),
    ("GET", "/v2/schedules/{schedule}/log", _NO_SCHEDULES),
    ("GET", "/v2/store", _NO_STORE),
    ("POST", "/v2/actor-tasks/{task}/publish", _NOT_PUBLIC),
    ("POST", "/v2/actor-tasks/{task}/unpublish", _NOT_PUBLIC),
    (
        "GET POST PUT DELETE",
        "/v2/tools/browser-info",
        "this server has no tools; the demo site at /demo/ can be requested",
    ),
    ("POST", "/v2/tools/encode-and-sign", _NO_TOOLS),
    ("POST", "/v2/tools/decode-and-verify", _NO_TOOLS),
)


class NotOffered:
    def __init__(self, reason: str) -> None:
        self.reason = reason

    async def __call__(self, _: Call) -> web.StreamResponse:
        raise ErrorAnswer(403, "operation-not-allowed", f"This server does not offer this operation: {self.reason}")


def add_routes(table: RouteTable) -> None:
    """Serve the operations that no other module serves. Must be called last."""
    for methods, path, reason in UNSERVED:
        for method in methods.split():
            if (method, path) not in table.served:
                # Clients search the store without a token.
                table.add(method, path, NotOffered(reason), needs_token=False)
