"""Executes the Actor of one Run, again after a reboot, a metamorph or a failure with restartOnError."""

from collections import deque
from collections.abc import Callable

import anyio

from batchrun.model import RunStatus
from batchrun.server.catalog.actor_catalog import LocalCommand
from batchrun.server.runs.actor_processes import ProcessRunner
from batchrun.server.runs.hosted_run import HostedRun, RunEnd, append_log, mark_status
from batchrun.server.runs.inline_actors import run_inline
from batchrun.server.store.database import Database

#: restartOnError: max restarts within this many seconds. Source: the platform's shared constants.
_MAX_RESTARTS, _RESTART_WINDOW_S = 3, 60


class RunExecutor:
    """Executes Actors, as processes or as coroutines. `token_of` makes the token of a Run."""

    def __init__(self, database: Database, processes: ProcessRunner, token_of: Callable[[str, int], str]) -> None:
        self._database, self._processes, self._token_of = database, processes, token_of
        #: True: an Actor that would begin again waits until the server closes.
        self.is_parking = False

    async def execute(self, live: HostedRun) -> RunEnd:
        """Execute the Run's Actor; return how it ended, unless cancelled."""
        await self._stay_ready(live)
        restarts: deque[float] = deque(maxlen=_MAX_RESTARTS)
        while True:
            ending = await self._live_once(live)
            if ending is None and self.is_parking:
                live.note_parked()
                await anyio.sleep_forever()
            if ending is None:
                await append_log(self._database, live, "ACTOR: Restarting, as the run was rebooted or metamorphed.")
                continue
            now = anyio.current_time()
            is_worn_out = len(restarts) == _MAX_RESTARTS and now - restarts[0] < _RESTART_WINDOW_S
            if ending.status is not RunStatus.FAILED or not live.doc["options"].get("restartOnError") or is_worn_out:
                return ending
            restarts.append(now)
            live.doc["stats"]["restartCount"] += 1
            await append_log(self._database, live, "ACTOR: Restarting, as the run was started with restartOnError.")

    async def _stay_ready(self, live: HostedRun) -> None:
        if live.ready_s:
            await anyio.sleep(live.ready_s)
            live.began, live.deadline = live.began + live.ready_s, live.deadline + live.ready_s
            if live.status is RunStatus.READY:
                await mark_status(self._database, live, RunStatus.RUNNING)

    async def _live_once(self, live: HostedRun) -> RunEnd | None:
        """Execute the Actor once; return None if it must restart."""
        ending: RunEnd | None = None
        with anyio.CancelScope() as live.life:
            ending = await self._run_actor(live)
        return None if live.life.cancel_called else ending

    async def _run_actor(self, live: HostedRun) -> RunEnd:
        runner = live.actor.runner
        if not isinstance(runner, LocalCommand):
            return await run_inline(self._database, live, runner)
        await append_log(self._database, live, "ACTOR: Starting a local process.")
        return await self._processes.run(live, runner, self._token_of(live.id, live.resurrections))
