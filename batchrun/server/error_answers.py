"""The errors the API answers with: HTTP status, `error.type` and message, in the platform's own words.

Owns the spelling of every error type the server gives. A Fault is raised anywhere below the HTTP layer and becomes
one error envelope there.
"""

from typing import Any


class Fault(Exception):
    """A request cannot be carried out; the caller is told why.

    Args:
        status: HTTP status.
        type: the API's `error.type`.
        message: fit to be shown to the caller; never holds a secret.
        data: goes beside type and message, as for dataset schema errors.
        headers: extra headers of the answer.
    """

    def __init__(
        self,
        status: int,
        type: str,  # noqa: A002 - the API's own word
        message: str,
        *,
        data: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status, self.type, self.message, self.data = status, type, message, data
        self.headers = headers or {}
        super().__init__(f"{status} {type}: {message}")


def thing_missing(thing: str) -> Fault:
    """Return the fault for an unknown id, name or key; `thing` begins the sentence ("Actor run")."""
    return Fault(404, "record-not-found", f"{thing} was not found")


def route_missing(path: str) -> Fault:
    """Return the fault for a path that is no endpoint."""
    return Fault(404, "page-not-found", f"We have bad news: there is no API endpoint at this URL: {path}")


def method_not_allowed(method: str, allowed: list[str]) -> Fault:
    """Return the fault for a path that exists, but not for this method."""
    names = ", ".join(allowed)
    message = f"This API end-point can only be accessed using the following HTTP methods: {names} (not {method})"
    return Fault(405, "method-not-allowed", message, headers={"Allow": names})


def value_invalid(message: str) -> Fault:
    """Return the fault for a query parameter, name or body property that cannot be used."""
    return Fault(400, "invalid-value", message)


def request_invalid(message: str) -> Fault:
    """Return the fault for a request whose body is not what the endpoint takes."""
    return Fault(400, "invalid-request", message)


def input_invalid(problem: str) -> Fault:
    """Return the fault for an input that the Actor's input schema refuses."""
    return Fault(400, "invalid-input", f"Input is not valid: {problem}")


def body_too_large(max_bytes: int) -> Fault:
    """Return the fault for a body above the limit, counted after decompression."""
    return Fault(413, "request-too-large", f"The POST payload is too large (limit: {max_bytes} bytes)")


def body_too_slow(limit_s: float) -> Fault:
    """Return the fault for a body that has not arrived in time; what is still to come is not the next request."""
    message = f"The body has not arrived within {limit_s} seconds"
    return Fault(408, "request-timeout", message, headers={"Connection": "close"})
