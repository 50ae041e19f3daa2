"""Decides which faults strike a request, by one seeded random stream per fault. Pure.

The same sequence of requests meets the same faults: a stream is asked once for each request that its fault could
strike, in order of arrival. As each fault has its own stream, a fault added at the end of the file changes no other.
"""

import random
from collections.abc import Iterable, Sequence

from batchrun.errors import ConfigError
from batchrun.server.faults.fault_file import Faults
from batchrun.server.faults.fault_plan import Asked, Fault, FaultPlan, Spoiler


class _Stream:
    def __init__(self, fault: Fault, seed: int, position: int) -> None:
        self.fault = fault
        self._seed = f"{seed}/{position}/{fault.kind}"
        self._random = random.Random(self._seed)  # noqa: S311 - must be repeatable, not secret
        self._seen = self._struck = self._burst_left = 0

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
        self._burst_left = self.fault.strikes_in_a_row - 1
        return True

    def note(self, plan: FaultPlan) -> None:
        self.fault.note(plan, self._random)


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
        return any(stream.fault.needs_run_age for stream in self._of_route(method, template))

    def needs_subject(self, method: str, template: str) -> bool:
        """Return whether `Asked.subject` matters for a route."""
        return any(stream.fault.sticky for stream in self._of_route(method, template))

    def decide(self, asked: Asked) -> FaultPlan:
        """Decide about the next request.

        Faults are tried in the order of the file, those before the effect first. After a refusal none is tried; after a
        spoiler no other spoiler. A fault that is not tried does not count the request.
        """
        streams = [stream for stream in self._of_route(asked.method, asked.template) if stream.fault.can_strike(asked)]
        early = [stream for stream in streams if stream.fault.is_early]
        plan = FaultPlan()
        for stream in [*early, *(stream for stream in streams if not stream.fault.is_early)]:
            if plan.refusal is not None:
                break
            is_spoilt = plan.spoiler is not None and isinstance(stream.fault, Spoiler)
            if not is_spoilt and stream.strikes(asked.subject):
                stream.note(plan)
        return plan

    def _of_route(self, method: str, template: str) -> Sequence[_Stream]:
        known = self._by_route.get((method, template))
        if known is None:
            known = [stream for stream in self._streams if stream.fault.names(method, template)]
            self._by_route[method, template] = known
        return known
