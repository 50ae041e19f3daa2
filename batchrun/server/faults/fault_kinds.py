"""The kinds of faults that a server injects on purpose: a class each, with its settings and with what it does.

A `Refusal` answers in place of the effect, a `Spoiler` in place of the handler's answer. The others note in the plan
what `FaultInjection` or a handler is to do.
"""

from random import Random
from typing import Annotated, ClassVar, Literal, get_args

from aiohttp import web
from pydantic import Field

from batchrun.server.error_answers import ErrorAnswer, thing_missing
from batchrun.server.faults.broken_answers import reset, trickle, truncate, unexpected_error
from batchrun.server.faults.fault_plan import Asked, Count, Fault, FaultPlan, Refusal, Routes, Seconds, Spoiler

_CAPACITY_MESSAGES = {
    "actor-memory-limit-exceeded": "By launching this job you will exceed the memory limit of all your Actor runs",
    "concurrent-runs-limit-exceeded": "By launching this job you will exceed your limit of concurrent Actor runs",
}


class ResetBefore(Refusal):
    """The connection is reset; the request is not carried out."""

    kind: Literal["reset_before"]

    def refuse(self, request: web.BaseRequest) -> web.Response:
        return reset(request)


class ErrorBefore(Refusal):
    """An error is answered; the request is not carried out."""

    kind: Literal["error_before"]
    status: Annotated[int, Field(ge=400, le=599)] = 503
    #: Empty: an HTML page is answered in place of the API's error, as a firewall does.
    type: str = "internal-server-error"

    def refuse(self, request: web.BaseRequest) -> web.Response:
        return unexpected_error(self.status, self.type)


class RateLimit(Refusal):
    """429 is answered; the request is not carried out."""

    kind: Literal["rate_limit"]
    #: Sent as `Retry-After`, if given; a text may be a date or nonsense.
    retry_after_s: int | str | None = None
    #: Number of matching requests in a row that are refused once it strikes.
    burst: Count = 1

    @property
    def strikes_in_a_row(self) -> int:
        return self.burst

    def refuse(self, request: web.BaseRequest) -> web.Response:
        headers = {"Retry-After": str(self.retry_after_s)} if self.retry_after_s is not None else None
        raise ErrorAnswer(429, "rate-limit-exceeded", "You have exceeded the rate limit", headers=headers)


class NoCapacity(Refusal):
    """An answer says that the account has no capacity for another Run; none is started."""

    kind: Literal["capacity"]
    routes: Routes = ["starts"]
    type: Literal["actor-memory-limit-exceeded", "concurrent-runs-limit-exceeded"] = "concurrent-runs-limit-exceeded"
    #: The platform has been observed to use both.
    status: Literal[402, 400] = 402

    def refuse(self, request: web.BaseRequest) -> web.Response:
        raise ErrorAnswer(self.status, self.type, _CAPACITY_MESSAGES[self.type])


class Fresh404(Refusal):
    """A Run is not found for a while after its start."""

    kind: Literal["fresh_404"]
    routes: Routes = ["runs"]
    seconds: Seconds

    needs_run_age: ClassVar[bool] = True

    def can_strike(self, asked: Asked) -> bool:
        return super().can_strike(asked) and asked.run_age_s is not None and asked.run_age_s < self.seconds

    def refuse(self, request: web.BaseRequest) -> web.Response:
        raise thing_missing("Actor run")


class Latency(Fault):
    """The answer takes longer, by a fixed time or by a Pareto distribution (most short, a few very long)."""

    kind: Literal["latency"]
    #: A fixed latency, or the minimum of the Pareto distribution.
    seconds: Seconds
    distribution: Literal["fixed", "pareto"] = "fixed"
    #: Of the Pareto distribution: a smaller shape has a longer tail.
    shape: Annotated[float, Field(gt=0)] = 1.5
    #: Of the Pareto distribution: longer latencies are cut to this one.
    max_seconds: Seconds = 30.0
    #: Before the effect (which then takes place even if the caller has hung up), or after it.
    where: Literal["before", "after"] = "before"

    @property
    def is_early(self) -> bool:
        return self.where == "before"

    def note(self, plan: FaultPlan, dice: Random) -> None:
        seconds = self.seconds
        if self.distribution == "pareto":
            seconds = min(seconds * dice.paretovariate(self.shape), self.max_seconds)
        if self.where == "before":
            plan.delay_before_s += seconds
        else:
            plan.delay_after_s += seconds


class ListLag(Fault):
    """New Runs are missing from lists for a while."""

    kind: Literal["list_lag"]
    routes: Routes = ["run-lists"]
    seconds: Seconds

    def note(self, plan: FaultPlan, dice: Random) -> None:
        plan.list_lag_s = max(plan.list_lag_s, self.seconds)


class NoEcho(Fault):
    """A started Run does not show its starter: `meta.userAgent` stays null."""

    kind: Literal["no_echo"]
    routes: Routes = ["starts"]

    def note(self, plan: FaultPlan, dice: Random) -> None:
        plan.hides_user_agent = True


class Repeat(Fault):
    """The request is carried out twice, as a balancer does that repeats it; the second answer is sent."""

    kind: Literal["repeat"]
    routes: Routes = ["starts"]

    def note(self, plan: FaultPlan, dice: Random) -> None:
        plan.is_repeated = True


class LongReady(Fault):
    """A started Run stays READY for a while."""

    kind: Literal["long_ready"]
    routes: Routes = ["starts"]
    seconds: Seconds

    def note(self, plan: FaultPlan, dice: Random) -> None:
        plan.ready_s += self.seconds


class StrangeStatus(Fault):
    """Runs are shown with a status that the API does not document."""

    kind: Literal["strange_status"]
    routes: Routes = ["runs"]
    status: str = "PAUSED"

    def note(self, plan: FaultPlan, dice: Random) -> None:
        plan.shown_status = self.status


class GatewayTimeout(Fault):
    """A gateway's 504 comes instead of an answer that takes longer; the request is carried out all the same."""

    kind: Literal["gateway_timeout"]
    routes: Routes = ["runs"]
    seconds: Seconds

    def note(self, plan: FaultPlan, dice: Random) -> None:
        plan.gateway_timeout_s = min(plan.gateway_timeout_s, self.seconds)


class SkewedDate(Fault):
    """The answer's `Date` is another clock's than the one that stamps Runs, as a gateway's may be."""

    kind: Literal["skewed_date"]
    #: How far that clock is ahead; negative: behind.
    seconds: float

    def note(self, plan: FaultPlan, dice: Random) -> None:
        plan.date_skew_s += self.seconds


class DropAnswer(Spoiler):
    """The connection is reset after the request was carried out."""

    kind: Literal["drop_answer"]

    async def spoil(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        return reset(request)


class ErrorAfter(Spoiler):
    """An error is answered after the request was carried out."""

    kind: Literal["error_after"]
    status: Annotated[int, Field(ge=400, le=599)] = 502
    #: Empty: an HTML page is answered in place of the API's error, as a firewall does.
    type: str = "internal-server-error"

    async def spoil(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        return unexpected_error(self.status, self.type)


class Truncate(Spoiler):
    """The body is shorter than its Content-Length."""

    kind: Literal["truncate"]
    #: Fraction of the body that is sent.
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.5

    async def spoil(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        return await truncate(request, response, self.keep)


class Garbage(Spoiler):
    """The status is right, the body is not JSON."""

    kind: Literal["garbage"]
    body: str = "<html><body>Please wait</body></html>"
    content_type: str = "text/html"

    async def spoil(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        status = response.status if response.status in (200, 201) else 200
        return web.Response(status=status, text=self.body, content_type=self.content_type)


class SlowBody(Spoiler):
    """The body is sent slowly, in small chunks."""

    kind: Literal["slow_body"]
    chunk_bytes: Count = 16
    #: Seconds between two chunks.
    pause_s: Seconds = 0.05

    async def spoil(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        return await trickle(request, response, self.chunk_bytes, self.pause_s)


#: All kinds; a new one is named here.
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
