"""Decides which faults strike a request, by one seeded random stream per fault. Pure.

The same sequence of requests meets the same faults: a stream is asked once for each request that its fault could
strike, in order of arrival. As each fault has its own stream, a fault added at the end of the file changes no other.
"""

import math
import random
from collections.abc import Iterable, Sequence

from batchrun.errors import ConfigError
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.faults.fault_kinds import (
    Fault,
    Faults,
    Fresh404,
    GatewayTimeout,
    Latency,
    ListLag,
    LongReady,
    NoEcho,
    RateLimit,
    Refusal,
    Repeat,
    SkewedDate,
    Spoiler,
    StrangeStatus,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The facts of a request that faults are decided by."""

    method: str
    #: The path of its route: `/v2/actor-runs/{run}`.
    template: str
    is_from_actor: bool = False
    #: Age in seconds of the Run in the path; None without one, or if `needs_run_age` is false.
    run_age_s: float | None = None
    #: The body, or without one the first id in the path; empty if `needs_subject` is false.
    subject: bytes = b""


@dataclass(slots=True, kw_only=True)
class FaultPlan:
    delay_before_s: float = 0.0
    #: If set, the request is not carried out and this is answered.
    refusal: Refusal | None = None
    #: Lists leave out Runs younger than this many seconds.
    list_lag_s: float = 0.0
    #: A started Run does not show its starter's User-Agent.
    hides_user_agent: bool = False
    #: How far the clock in the answer's `Date` is ahead.
    date_skew_s: float = 0.0
    is_repeated: bool = False
    #: A started Run stays READY for this many seconds.
    ready_s: float = 0.0
    #: If set, Runs are shown with this status.
    shown_status: str | None = None
    #: An answer that takes longer than this many seconds is replaced by a 504.
    gateway_timeout_s: float = math.inf
    delay_after_s: float = 0.0
    #: If set, this fault spoils the answer.
    spoiler: Spoiler | None = None

    @property
    def needs_whole_answer(self) -> bool:
        """True if the handler must return the answer in one piece, so that it can be spoilt or delayed."""
        return self.spoiler is not None or self.is_apart

    @property
    def is_apart(self) -> bool:
        """True if the request is carried out even if its caller has hung up."""
        return self.delay_before_s > 0 or self.gateway_timeout_s < math.inf


class _Stream:
    def __init__(self, fault: Fault, seed: int, position: int) -> None:
        self.fault = fault
        self._seed = f"{seed}/{position}/{fault.kind}"
        self._random = random.Random(self._seed)  # noqa: S311 - must be repeatable, not secret
        self._seen = self._struck = self._burst_left = 0

    @property
    def is_early(self) -> bool:
        fault = self.fault
        return isinstance(fault, Refusal) or (isinstance(fault, Latency) and fault.where == "before")

    def strikes(self, subject: bytes) -> bool:
        self._seen += 1
        is_used_up = self.fault.count is not None and self._struck >= self.fault.count
        if is_used_up or self._seen <= self.fault.after or not self._is_due(subject):
            return False
        self._struck += 1
        return True

    def _is_due(self, subject: bytes) -> bool:
        if self._burst_left:
            self._burst_left -= 1
            return True
        dice = random.Random(self._seed.encode() + subject) if self.fault.sticky else self._random  # noqa: S311
        if dice.random() >= self.fault.probability:
            return False
        self._burst_left = self.fault.burst - 1 if isinstance(self.fault, RateLimit) else 0
        return True

    def latency_s(self, fault: Latency) -> float:
        if fault.distribution == "fixed":
            return fault.seconds
        return min(fault.seconds * self._random.paretovariate(fault.shape), fault.max_seconds)


class FaultScript:
    """All faults of a server; decides about requests in order of arrival."""

    def __init__(self, faults: Faults) -> None:
        self._source = faults.source
        self._streams = [_Stream(fault, faults.seed, position) for position, fault in enumerate(faults.fault)]
        self._by_route: dict[tuple[str, str], list[_Stream]] = {}

    def check(self, routes: Iterable[tuple[str, str]]) -> None:
        """Check that every pattern matches a route, given as (method, template).

        Raises:
            ConfigError: a pattern matches none; most likely it is misspelt.
        """
        served = list(routes)
        for position, stream in enumerate(self._streams):
            for name in stream.fault.routes:
                lone = stream.fault.model_copy(update={"routes": [name]})
                if not any(lone.names(*route) for route in served):
                    raise ConfigError(
                        f"no route that is served matches {name}", key=f"fault.{position}.routes", file=self._source
                    )

    def needs_run_age(self, method: str, template: str) -> bool:
        """Return whether `Asked.run_age_s` matters for a route."""
        return any(isinstance(stream.fault, Fresh404) for stream in self._of_route(method, template))

    def needs_subject(self, method: str, template: str) -> bool:
        """Return whether `Asked.subject` matters for a route."""
        return any(stream.fault.sticky for stream in self._of_route(method, template))

    def decide(self, asked: Asked) -> FaultPlan:
        """Decide about the next request.

        Faults are tried in the order of the file, those before the effect first. After a refusal none is tried; after a
        spoiler no other spoiler. A fault that is not tried does not count the request.
        """
        streams = [stream for stream in self._of_route(asked.method, asked.template) if _can_strike(stream, asked)]
        early = [stream for stream in streams if stream.is_early]
        plan = FaultPlan()
        for stream in [*early, *(stream for stream in streams if not stream.is_early)]:
            if plan.refusal is not None:
                break
            is_spoilt = plan.spoiler is not None and isinstance(stream.fault, Spoiler)
            if not is_spoilt and stream.strikes(asked.subject):
                _note(plan, stream)
        return plan

    def _of_route(self, method: str, template: str) -> Sequence[_Stream]:
        known = self._by_route.get((method, template))
        if known is None:
            known = [stream for stream in self._streams if stream.fault.names(method, template)]
            self._by_route[method, template] = known
        return known


def _can_strike(stream: _Stream, asked: Asked) -> bool:
    fault = stream.fault
    if asked.is_from_actor and not fault.actors:
        return False
    return not isinstance(fault, Fresh404) or (asked.run_age_s is not None and asked.run_age_s < fault.seconds)


def _note(plan: FaultPlan, stream: _Stream) -> None:
    fault = stream.fault
    match fault:
        case Latency(where="before"):
            plan.delay_before_s += stream.latency_s(fault)
        case Latency():
            plan.delay_after_s += stream.latency_s(fault)
        case ListLag():
            plan.list_lag_s = max(plan.list_lag_s, fault.seconds)
        case SkewedDate():
            plan.date_skew_s += fault.seconds
        case GatewayTimeout():
            plan.gateway_timeout_s = min(plan.gateway_timeout_s, fault.seconds)
        case Refusal():
            plan.refusal = fault
        case Spoiler():
            plan.spoiler = fault
        case _:
            _note_effect(plan, fault)


def _note_effect(plan: FaultPlan, fault: Fault) -> None:
    match fault:
        case NoEcho():
            plan.hides_user_agent = True
        case Repeat():
            plan.is_repeated = True
        case LongReady():
            plan.ready_s += fault.seconds
        case StrangeStatus():
            plan.shown_status = fault.status
