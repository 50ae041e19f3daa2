"""The table of operations in batchrun/server/OPERATIONS.md, made from the document and the server's routes.

python -m tests.support.operations    writes it
"""

from functools import cache
from pathlib import Path

from batchrun.server.api.unserved_routes import NotOffered
from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.http.handler import make_table
from batchrun.server.routing.route_table import RouteTable
from tests.support.openapi import OpenApi

FILE = Path(__file__).parents[2] / "batchrun" / "server" / "OPERATIONS.md"
_HEAD = """\
# Operations

The answer of the embedded server to each operation that the Apify API documents for Actors, tasks, Runs, builds,
storages, logs and users. Written by `python -m tests.support.operations`; a test compares it with the server's routes.

**served**: as documented. The numbers are the statuses of success; errors have the documented types.
**403**: refused with `operation-not-allowed`, once and for all, and this reason.
Any other path is answered 404 `page-not-found`, another method 405 `method-not-allowed`. Official clients retry none
of these.

Every path under `/v2/actors` is served under `/v2/acts` too.

| Operation | Path | Answer |
|---|---|---|
"""
_MORE = """
Operations that the server adds to that document:

| Operation | Path | Answer |
|---|---|---|
"""


@cache
def _table() -> RouteTable:
    return make_table()


def answer_of(method: str, path: str, success: str) -> str:
    """Return what the server answers to an operation."""
    try:
        route, _ = _table().find(method, path)
    except ErrorAnswer as error:
        return f"{error.status} `{error.type}`"
    if isinstance(route.handler, NotOffered):
        return f"403: {route.handler.reason}"
    return f"served: {success}" if success else "served"


def render(openapi: OpenApi) -> str:
    """Return the whole file."""
    rows, documented = [], set()
    for operation in openapi.operations:
        success = ", ".join(map(str, operation.success))
        rows.append(_row(operation.method, operation.path, answer_of(operation.method, operation.path, success)))
        documented.add((operation.method, _shape(operation.path)))
    more = [
        _row(method, path, answer_of(method, path, ""))
        for method, path in _table().served
        if (method, _shape(path)) not in documented and not path.startswith("/v2/acts")
    ]
    return _HEAD + "".join(rows) + _MORE + "".join(more)


def rows() -> list[tuple[str, str, str]]:
    """Return the rows of the file as (method, path, answer)."""
    lines = FILE.read_text("utf-8").splitlines()
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if line[:3] == "| `"]
    return [(method, path, answer) for method, path, answer in cells]


def _row(method: str, path: str, answer: str) -> str:
    return f"| `{method}` | `{path}` | {answer} |\n"


def _shape(path: str) -> str:
    return "/".join("*" if part.startswith("{") else part for part in path.split("/"))


if __name__ == "__main__":
    FILE.write_text(render(OpenApi()), "utf-8")
