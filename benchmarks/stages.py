"""CPU time by stage: which part of batchrun, or of what it stands on, was at work.

A timer on the process's CPU time interrupts the main thread; what the thread has used since the last sample goes to
what its stack shows, and work inside C counts for the Python frame that called it. What worker threads do is too short
to be met by samples: it is timed, by each thread's own CPU clock, where it is called.
"""

import signal
import time
from collections import defaultdict
from contextlib import ExitStack
from operator import itemgetter
from types import FrameType
from typing import Any, Self
from unittest import mock

from batchrun.batch.job_source import FileSource
from batchrun.ledger.sqlite.journal import Journal
from batchrun.model import Record
from batchrun.output.sink import Sink

INTERVAL_S = 0.001

#: By a part of the file's path, the first that fits; the innermost frame that fits anything decides.
STAGES = (
    ("/batchrun/jobs/", "source"),
    ("/batchrun/batch/job_source", "source"),
    ("/batchrun/ledger/", "ledger"),
    ("/batchrun/apify/connections", "HTTP"),
    ("/batchrun/apify/", "client"),
    ("/batchrun/", "engine"),
    ("/structlog/", "log"),
    ("/aiohttp/", "HTTP"),
    ("/yarl/", "HTTP"),
    ("/multidict/", "HTTP"),
    # Below it is only what has started the loop.
    ("/asyncio/runners", "loop"),
)
#: Where none of these is at work, the loop is: callbacks, sockets, the wait for them.
LOOP = "loop"
ORDER = ("source", "ledger", "sink", "threads", "engine", "log", "client", "HTTP", LOOP)

#: What worker threads call.
TIMED: tuple[tuple[type, str, str], ...] = (
    (FileSource, "_read", "source"),
    (Journal, "commit_group", "ledger"),
    (Record, "as_line", "sink"),
    (Sink, "flush", "sink"),
)


class Sampler:
    """Attributes this process's CPU time to stages, while it is open; only the main thread may open it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._frames: defaultdict[str, float] = defaultdict(float)
        self._used_s = self._whole_s = 0.0
        self._timers = ExitStack()

    def __enter__(self) -> Self:
        for owner, name, stage in TIMED:
            timed = self._timed(getattr(owner, name), stage)
            self._timers.enter_context(mock.patch.object(owner, name, timed))
        self._whole_s, self._used_s = time.process_time(), time.thread_time()
        signal.signal(signal.SIGPROF, lambda _number, frame: self._sample(frame))
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        self._timers.close()
        # What is inside a commit was timed twice.
        self.seconds["ledger"] -= self.seconds["sink"]
        # What is left are the worker threads' queues, and the wait for the interpreter's lock.
        self.seconds["threads"] = max(0.0, time.process_time() - self._whole_s - sum(self.seconds.values()))

    def top(self, count: int) -> dict[str, float]:
        """Return the functions of the main thread that used most, in seconds."""
        return dict(sorted(self._frames.items(), key=itemgetter(1), reverse=True)[:count])

    def _timed(self, function: Any, stage: str) -> Any:
        def timed(*arguments: Any) -> Any:
            began_s = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.seconds[stage] += time.thread_time() - began_s

        return timed

    def _sample(self, frame: FrameType | None) -> None:
        used_s = time.thread_time()
        elapsed_s, self._used_s = used_s - self._used_s, used_s
        if frame is not None:
            code = frame.f_code
            self._frames[f"{code.co_filename.rpartition('site-packages/')[2]}:{code.co_qualname}"] += elapsed_s
            self.seconds[_stage(frame)] += elapsed_s


def _stage(frame: FrameType | None) -> str:
    while frame is not None:
        path = frame.f_code.co_filename
        for part, stage in STAGES:
            if part in path:
                return stage
        frame = frame.f_back
    return LOOP
