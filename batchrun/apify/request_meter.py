"""How long requests take, by what they ask for: never by whose id, so that the number of kinds stays small."""

from batchrun.runtime.histogram import SECONDS, Histogram

#: In place of a status: the request got no answer.
NO_ANSWER = 0
#: At the end of an endpoint whose answer the server may hold back until a Run ends: its length is no slowness.
HELD = "?waitForFinish"


class RequestMeter:
    """Latencies of all requests of a client."""

    def __init__(self) -> None:
        #: By method, endpoint (its path's template) and status.
        self.latencies: dict[tuple[str, str, int], Histogram] = {}

    def note(self, method: str, path: str, status: int, took_s: float, *, is_held: bool = False) -> None:
        """Count one more request.

        Args:
            method: of the request.
            path: its resource, with ids.
            status: HTTP status, or NO_ANSWER.
            took_s: from its sending to the end of the answer.
            is_held: whether the server was asked to wait before it answers.
        """
        endpoint = endpoint_of(path)
        key = (method, endpoint + HELD if is_held else endpoint, status)
        histogram = self.latencies.get(key)
        if histogram is None:
            histogram = self.latencies[key] = Histogram(SECONDS)
        histogram.note(took_s)


def endpoint_of(path: str) -> str:
    """Return the template of a path: every second segment is an id, or a name that somebody gave."""
    segments = path.split("/")
    if segments[1] != "users":  # what stands there is always the same: /users/me/usage/monthly
        for place in range(2, len(segments), 2):
            segments[place] = "{}"
    return "/".join(segments)
