"""How long requests take, by endpoint and status; never by id, so that the number of histograms stays small."""

from batchrun.runtime.histogram import SECONDS, Histogram

#: Stands for the status of a request that got no answer.
NO_ANSWER = 0
#: Marks the endpoint of a poll: the server may hold its answer back, so a long one is not a slow one.
HELD = "?waitForFinish"


class RequestMeter:
    """Latencies of all requests of a client."""

    def __init__(self) -> None:
        #: By method, endpoint (its path's template) and status.
        self.latencies: dict[tuple[str, str, int], Histogram] = {}
        #: Number of all requests.
        self.count = 0

    def note(self, method: str, path: str, status: int, took_s: float, *, is_held: bool = False) -> None:
        """Count one more request; `is_held` if the server was asked to wait before it answers."""
        self.count += 1
        endpoint = endpoint_of(path)
        key = (method, endpoint + HELD if is_held else endpoint, status)
        histogram = self.latencies.get(key)
        if histogram is None:
            histogram = self.latencies[key] = Histogram(SECONDS)
        histogram.note(took_s)


def endpoint_of(path: str) -> str:
    """Return the template of a path: every second segment is an id or a user's name for a thing."""
    segments = path.split("/")
    if segments[1] != "users":  # /users/me/usage/monthly holds no id
        for place in range(2, len(segments), 2):
            segments[place] = "{}"
    return "/".join(segments)
