"""A fault in general: the settings of all kinds, and the plan in which it notes what is to happen to a request."""

import math
from abc import ABC, abstractmethod
from random import Random
from typing import Annotated, ClassVar

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.faults.fault_routes import ROUTE_NAMES, checked_route, names_route

Routes = Annotated[list[Annotated[str, AfterValidator(checked_route)]], Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


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
    """What its faults do to one request. `FaultInjection` carries it out; handlers read what concerns them."""

    delay_before_s: float = 0.0
    #: If set, the request is not carried out and this is answered.
    refusal: "Refusal | None" = None
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
    spoiler: "Spoiler | None" = None

    @property
    def needs_whole_answer(self) -> bool:
        """True if the handler must return the answer in one piece, so that it can be spoilt or delayed."""
        return self.spoiler is not None or self.is_apart

    @property
    def is_apart(self) -> bool:
        """True if the request is carried out even if its caller has hung up."""
        return self.delay_before_s > 0 or self.gateway_timeout_s < math.inf


class Fault(BaseModel, ABC):
    """The settings of every fault: which requests it strikes, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    #: True: its decision depends on `Asked.run_age_s`.
    needs_run_age: ClassVar[bool] = False

    kind: str
    #: Keys of ROUTE_NAMES, or patterns for `names_route`.
    routes: Routes = ["all"]
    #: For each request that matches.
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    #: Max times that the fault strikes; None is unlimited.
    count: Count | None = None
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

    @property
    def is_early(self) -> bool:
        """True if it strikes before the request takes effect: it is tried before those that strike later."""
        return False

    @property
    def strikes_in_a_row(self) -> int:
        """Number of matching requests that it strikes once it is due."""
        return 1

    def can_strike(self, asked: Asked) -> bool:
        """True if it strikes such requests; the others do not count."""
        return self.actors or not asked.is_from_actor

    @abstractmethod
    def note(self, plan: FaultPlan, dice: Random) -> None:
        """Note in the plan what is to happen to the request that is struck."""


class Refusal(Fault):
    """A fault in place of the effect: the request is not carried out."""

    @property
    def is_early(self) -> bool:
        return True

    def note(self, plan: FaultPlan, dice: Random) -> None:
        plan.refusal = self

    @abstractmethod
    def refuse(self, request: web.BaseRequest) -> web.Response:
        """Return what is answered in place of the effect, or raise it as an `ErrorAnswer`."""


class Spoiler(Fault):
    """A fault of the answer; the request was carried out."""

    def note(self, plan: FaultPlan, dice: Random) -> None:
        plan.spoiler = self

    @abstractmethod
    async def spoil(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        """Return what is answered in place of the response, or raise it as an `ErrorAnswer`."""
