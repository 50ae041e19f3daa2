"""The errors that the API answers: HTTP status, `error.type` and message, in the platform's own words.

Owns the spelling of every error type. An ErrorAnswer is raised anywhere below `http`, where it becomes an envelope; a
docstring mentions it only where it surprises. A function that raises one has changed nothing, unless its docstring says
otherwise.
"""


class ErrorAnswer(Exception):
    """A request cannot be carried out. `message` is shown to the caller and never holds a secret."""

    def __init__(
        self,
        status: int,
        type: str,  # noqa: A002 - the API's own word
        message: str,
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status, self.type, self.message = status, type, message
        self.headers = headers or {}
        super().__init__(f"{status} {type}: {message}")


def token_missing() -> ErrorAnswer:
    return ErrorAnswer(401, "token-not-provided", "Authentication token was not provided")


def token_invalid() -> ErrorAnswer:
    return ErrorAnswer(401, "user-or-token-not-found", "User was not found or authentication token is not valid")


def not_permitted(what: str) -> ErrorAnswer:
    """Return the error for a thing that the caller may see but not use."""
    return ErrorAnswer(403, "insufficient-permissions", f"Insufficient permissions for the {what}")


def thing_missing(thing: str) -> ErrorAnswer:
    """Return the error for an unknown id, name or key; `thing` begins the sentence ("Actor run")."""
    return ErrorAnswer(404, "record-not-found", f"{thing} was not found")


def route_missing(path: str) -> ErrorAnswer:
    return ErrorAnswer(404, "page-not-found", f"We have bad news: there is no API endpoint at this URL: {path}")


def method_not_allowed(method: str, allowed: list[str]) -> ErrorAnswer:
    names = ", ".join(allowed)
    message = f"This API end-point can only be accessed using the following HTTP methods: {names} (not {method})"
    return ErrorAnswer(405, "method-not-allowed", message, headers={"Allow": names})


def record_key_invalid(reason: str) -> ErrorAnswer:
    return ErrorAnswer(400, "invalid-record-key", f"Record key is not valid: {reason}")


def value_invalid(message: str) -> ErrorAnswer:
    """Return the error for an invalid query parameter, name or body property."""
    return ErrorAnswer(400, "invalid-value", message)


def request_invalid(message: str) -> ErrorAnswer:
    """Return the error for a body that the endpoint does not accept."""
    return ErrorAnswer(400, "invalid-request", message)


def input_invalid(problem: str) -> ErrorAnswer:
    return ErrorAnswer(400, "invalid-input", f"Input is not valid: {problem}")


def body_too_large(max_bytes: int) -> ErrorAnswer:
    return ErrorAnswer(413, "request-too-large", f"The POST payload is too large (limit: {max_bytes} bytes)")


def disk_full() -> ErrorAnswer:
    return ErrorAnswer(507, "insufficient-storage", "The disk of this server is almost full; free some space there")


def body_too_slow(limit_s: float) -> ErrorAnswer:
    # The connection closes: the rest of the body must not be read as the next request.
    message = f"The body has not arrived within {limit_s} seconds"
    return ErrorAnswer(408, "request-timeout", message, headers={"Connection": "close"})
