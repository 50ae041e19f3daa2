"""Applies a fault plan to a real request: waits, refuses, lets the handler run, spoils the answer.

The route's handler runs whole or not at all: nothing here changes the server's state.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import anyio.abc
import structlog
from aiohttp import web

from batchrun.server.accounts.callers import Caller
from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.faults.broken_answers import unexpected_error
from batchrun.server.faults.fault_plan import Asked, FaultPlan
from batchrun.server.faults.fault_script import FaultScript
from batchrun.server.ids import now_ms, parse_iso
from batchrun.server.routing.call import Call, Route, add_common_headers

_log = structlog.get_logger()

#: Carries out a request; returns an answer also if that fails.
Work = Callable[[], Awaitable[web.StreamResponse]]


class FaultInjection:
    def __init__(self, script: FaultScript, children: anyio.abc.TaskGroup) -> None:
        self._script, self._children = script, children

    async def answer(self, call: Call, route: Route, method: str, work: Work) -> web.StreamResponse:
        plan = await self._decide(call, route, "GET" if method == "HEAD" else method)
        if plan.refusal is not None:
            _log.info("fault_struck", kind=plan.refusal.kind, method=method, route=route.path)
            await anyio.sleep(plan.delay_before_s)
            return plan.refusal.refuse(call.request)
        call.faults = plan
        if plan.is_repeated:
            body = await call.peek()
            await work()
            call.put_back(body)
        response = await (self._carry_out_apart(call, plan, work) if plan.is_apart else work())
        if plan.date_skew_s and not response.prepared:
            at = datetime.now(UTC) + timedelta(seconds=plan.date_skew_s)
            response.headers["Date"] = format_datetime(at, usegmt=True)
        if plan.delay_after_s:
            await anyio.sleep(plan.delay_after_s)
        if plan.spoiler is None or not isinstance(response, web.Response):
            return response
        _log.info("fault_struck", kind=plan.spoiler.kind, method=method, route=route.path)
        add_common_headers(response, call.per_s)  # what is sent here is not completed by the handler of all requests
        return await plan.spoiler.spoil(call.request, response)

    async def _decide(self, call: Call, route: Route, method: str) -> FaultPlan:
        if route.is_page:
            return FaultPlan()
        age_s = await _run_age_s(call) if self._script.needs_run_age(method, route.path) else None
        subject = await _subject(call) if self._script.needs_subject(method, route.path) else b""
        is_from_actor = call.caller is Caller.RUN
        return self._script.decide(
            Asked(method=method, template=route.path, is_from_actor=is_from_actor, run_age_s=age_s, subject=subject)
        )

    async def _carry_out_apart(self, call: Call, plan: FaultPlan, work: Work) -> web.StreamResponse:
        """Carry out a request, late if so planned, even if its caller has hung up by then, as a platform does."""
        await call.receive()  # a body that has not arrived is lost with the connection
        response: web.StreamResponse | None = None
        is_done = anyio.Event()

        async def carry_out() -> None:
            nonlocal response
            await anyio.sleep(plan.delay_before_s)
            response = await work()
            is_done.set()

        self._children.start_soon(carry_out)
        with anyio.move_on_after(plan.gateway_timeout_s):
            await is_done.wait()
        return unexpected_error(504) if response is None else response


async def _subject(call: Call) -> bytes:
    return await call.peek() or next(iter(call.path.values()), "").encode(errors="surrogateescape")


async def _run_age_s(call: Call) -> float | None:
    if (run_id := call.path.get("run")) is None:
        return None
    try:
        doc = await call.backend.runs.read(run_id)
    except ErrorAnswer:
        return None
    return (now_ms() - parse_iso(doc["startedAt"], "startedAt")) / 1000
