"""The faults that a server injects on purpose: a TOML file as validated values.

    seed = 1
    [[fault]]
    kind = "drop_answer"
    routes = ["starts"]
    probability = 0.05

Owns names, kinds, bounds and defaults of faults. Knows nothing of HTTP and decides nothing.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from batchrun.errors import ConfigError

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


def _checked_route(text: str) -> str:
    method, _, path = text.partition(" ")
    if text not in ROUTE_NAMES and (method not in _METHODS or not path.startswith("/v2")):
        names = ", ".join(ROUTE_NAMES)
        raise ValueError(f'must be a method and a path, like "GET /v2/actor-runs/*", or one of {names}')
    return text


_Routes = Annotated[list[Annotated[str, AfterValidator(_checked_route)]], Field(min_length=1)]
_Seconds = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]


class Fault(BaseModel):
    """The settings of every fault: which requests it strikes, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: str
    #: Keys of ROUTE_NAMES, or patterns for `names_route`.
    routes: _Routes = ["all"]
    #: For each request that matches.
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    #: Max times that the fault strikes; None is unlimited.
    count: _Count | None = None
    #: Number of matching requests that are spared first.
    after: Annotated[int, Field(ge=0)] = 0
    #: True: requests of live Runs are struck too.
    actors: bool = False
    #: True: decided once for each body, or without a body for each first id in the path. Ids of Runs are random.
    sticky: bool = False

    @property
    def patterns(self) -> tuple[str, ...]:
        return tuple(pattern for route in self.routes for pattern in ROUTE_NAMES.get(route, (route,)))

    def names(self, method: str, template: str) -> bool:
        return any(names_route(pattern, method, template) for pattern in self.patterns)


class Refusal(Fault):
    """A fault in place of the effect: the request is not carried out."""


class ResetBefore(Refusal):
    """The connection is reset; the request is not carried out."""

    kind: Literal["reset_before"]


class ErrorBefore(Refusal):
    """An error is answered; the request is not carried out."""

    kind: Literal["error_before"]
    status: Annotated[int, Field(ge=400, le=599)] = 503
    #: Empty: an HTML page is answered in place of the API's error, as a firewall does.
    type: str = "internal-server-error"


class RateLimit(Refusal):
    """429 is answered; the request is not carried out."""

    kind: Literal["rate_limit"]
    #: Sent as `Retry-After`, if given; a text may be a date or nonsense.
    retry_after_s: int | str | None = None
    #: Number of matching requests in a row that are refused once it strikes.
    burst: _Count = 1


class NoCapacity(Refusal):
    """An answer says that the account has no capacity for another Run; none is started."""

    kind: Literal["capacity"]
    routes: _Routes = ["starts"]
    type: Literal["actor-memory-limit-exceeded", "concurrent-runs-limit-exceeded"] = "concurrent-runs-limit-exceeded"
    #: The platform has been observed to use both.
    status: Literal[402, 400] = 402


class Fresh404(Refusal):
    """A Run is not found for a while after its start."""

    kind: Literal["fresh_404"]
    routes: _Routes = ["runs"]
    seconds: _Seconds


class Latency(Fault):
    """The answer takes longer, by a fixed time or by a Pareto distribution (most short, a few very long)."""

    kind: Literal["latency"]
    #: A fixed latency, or the minimum of the Pareto distribution.
    seconds: _Seconds
    distribution: Literal["fixed", "pareto"] = "fixed"
    #: Of the Pareto distribution: a smaller shape has a longer tail.
    shape: Annotated[float, Field(gt=0)] = 1.5
    #: Of the Pareto distribution: longer latencies are cut to this one.
    max_seconds: _Seconds = 30.0
    #: Before the effect (which then takes place even if the caller has hung up), or after it.
    where: Literal["before", "after"] = "before"


class ListLag(Fault):
    """New Runs are missing from lists for a while."""

    kind: Literal["list_lag"]
    routes: _Routes = ["run-lists"]
    seconds: _Seconds


class NoEcho(Fault):
    """A started Run does not show its starter: `meta.userAgent` stays null."""

    kind: Literal["no_echo"]
    routes: _Routes = ["starts"]


class Repeat(Fault):
    """The request is carried out twice, as a balancer does that repeats it; the second answer is sent."""

    kind: Literal["repeat"]
    routes: _Routes = ["starts"]


class LongReady(Fault):
    """A started Run stays READY for a while."""

    kind: Literal["long_ready"]
    routes: _Routes = ["starts"]
    seconds: _Seconds


class StrangeStatus(Fault):
    """Runs are shown with a status that the API does not document."""

    kind: Literal["strange_status"]
    routes: _Routes = ["runs"]
    status: str = "PAUSED"


class GatewayTimeout(Fault):
    """A gateway's 504 comes instead of an answer that takes longer; the request is carried out all the same."""

    kind: Literal["gateway_timeout"]
    routes: _Routes = ["runs"]
    seconds: _Seconds


class SkewedDate(Fault):
    """The answer's `Date` is another clock's than the one that stamps Runs, as a gateway's may be."""

    kind: Literal["skewed_date"]
    #: How far that clock is ahead; negative: behind.
    seconds: float


class Spoiler(Fault):
    """A fault of the answer; the request was carried out."""


class DropAnswer(Spoiler):
    """The connection is reset after the request was carried out."""

    kind: Literal["drop_answer"]


class ErrorAfter(Spoiler):
    """An error is answered after the request was carried out."""

    kind: Literal["error_after"]
    status: Annotated[int, Field(ge=400, le=599)] = 502
    #: Empty: an HTML page is answered in place of the API's error, as a firewall does.
    type: str = "internal-server-error"


class Truncate(Spoiler):
    """The body is shorter than its Content-Length."""

    kind: Literal["truncate"]
    #: Fraction of the body that is sent.
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.5


class Garbage(Spoiler):
    """The status is right, the body is not JSON."""

    kind: Literal["garbage"]
    body: str = "<html><body>Please wait</body></html>"
    content_type: str = "text/html"


class SlowBody(Spoiler):
    """The body is sent slowly, in small chunks."""

    kind: Literal["slow_body"]
    chunk_bytes: _Count = 16
    #: Seconds between two chunks.
    pause_s: _Seconds = 0.05


AnyFault = Annotated[
    ResetBefore
    | ErrorBefore
    | RateLimit
    | NoCapacity
    | Fresh404
    | Latency
    | ListLag
    | NoEcho
    | Repeat
    | LongReady
    | StrangeStatus
    | GatewayTimeout
    | SkewedDate
    | DropAnswer
    | ErrorAfter
    | Truncate
    | Garbage
    | SlowBody,
    Field(discriminator="kind"),
]
KINDS = tuple(get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(AnyFault)[0]))


class Faults(BaseModel):
    """All faults of a server, and the seed of their random numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seed: int = 0
    fault: list[AnyFault] = []
    #: The file that they were read from, for messages.
    source: Path | None = None


def load_faults(file: Path) -> Faults:
    """Read faults from a TOML file.

    Raises:
        ConfigError: names the file and the key.
    """
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=file) from error
    return parse_faults(values, file)


def parse_faults(values: dict[str, Any], file: Path | None = None) -> Faults:
    """Return faults from a TOML table.

    Raises:
        ConfigError: names the key, and the file if there is one.
    """
    if "source" in values:
        raise ConfigError("is not a known key", key="source", file=file)
    try:
        return Faults.model_validate({**values, "source": file})
    except ValidationError as error:
        finding = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key, problem = _explained(finding["type"], finding["msg"], finding["loc"], values)
        raise ConfigError(problem, key=key or None, file=file) from None


def _explained(code: str, message: str, location: tuple[int | str, ...], values: dict[str, Any]) -> tuple[str, str]:
    """Return the dotted key of a validation error, and the problem."""
    # After the fault's index pydantic gives the kind, which is not part of the key.
    path = [*location[:2], *location[3:]] if location[0] == "fault" else [*location]
    key = ".".join(map(str, path))
    if code == "union_tag_invalid":
        return f"{key}.kind", f"is not a known kind of fault{_kinds_like(values['fault'][location[1]]['kind'])}"
    if code == "union_tag_not_found":
        return f"{key}.kind", f"is missing; a fault has one of the kinds {', '.join(KINDS)}"
    if code == "extra_forbidden":
        return key, "is not a known key"
    problem = "is missing" if code == "missing" else message.removeprefix("Value error, ")
    return key, problem.replace("Input", "the value")


def _kinds_like(given: object) -> str:
    close = difflib.get_close_matches(str(given), KINDS, n=1)
    return f"; did you mean {close[0]}?" if close else f" (known are {', '.join(KINDS)})"
