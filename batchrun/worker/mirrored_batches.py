"""Batches in shards, as a worker of the fleet shows them: each is one batch, whichever workers carry its parts out."""

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import anyio

from batchrun.words.progress_words import Speed
from batchrun.worker.batch_runner import BatchRunner
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.fleet.fleet import Fleet
from batchrun.worker.fleet.fleet_list import ListedBatch
from batchrun.worker.fleet.sharded_batch import ShardedBatch
from batchrun.worker.fleet.sharded_order import OrderVerb
from batchrun.worker.fleet.sharded_pull import pull_sharded_batch
from batchrun.worker.submission import BatchState, RetryOrder, Submission
from batchrun.worker.submission_store import SubmissionStore, WrongState

#: Seconds between two times that the files of a batch are brought here, at least, and for each second that it takes.
LEAST_REST_S = 1.0
REST_PER_S = 4.0


class MirroredBatches:
    """The batches in shards of one fleet.

    Args:
        fleet: its list and its page.
        store: shows them beside the other batches.
        directory: where their files are brought when somebody asks for them.
        runners: of the parts that this worker has.
    """

    def __init__(
        self, fleet: Fleet, store: SubmissionStore, directory: DataDirectory, runners: Mapping[str, BatchRunner]
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._runners = runners
        self._directory = directory
        #: Batches of other workers, as the store shows them.
        self._shown: Mapping[str, ListedBatch] = {}
        #: The length of the list, and the batches of this worker, that this is of.
        self._shown_of: tuple[int, set[str]] = (0, set())
        #: What the store shows of each batch in shards: its entry of the list, and its parts.
        self._together: dict[str, tuple[object, ...]] = {}
        #: Settled jobs per second of each batch.
        self.speeds: dict[str, Speed] = {}
        #: Held while the files of a batch are brought here, and when they may be brought again.
        self._turns: dict[str, anyio.Lock] = {}
        self._again_at: dict[str, float] = {}

    def has(self, batch: str) -> bool:
        """True if a batch is in shards."""
        return batch in self._fleet.wholes

    def are_ordered_of(self, batch: str) -> bool:
        """True if orders for a batch go through the list: it is in shards, or another worker has it."""
        return self.has(batch) or self._fleet.carrier(batch) is not None

    def mirror(self) -> None:
        """Let the store show the batches of other workers, and those in shards, as they are once orders are obeyed."""
        if self._shown_of != (now := (self._fleet.list_length, set(self._fleet.ready))):
            shown = {batch: listed for batch, listed in self._fleet.listed.items() if not self._fleet.owns(batch)}
            for batch, listed in shown.items():
                if self._shown.get(batch) is not listed:
                    self._store.mirror(self._as_ordered(listed))
            self._shown, self._shown_of = shown, now
        for batch, counts in self._fleet.counts_of_others():
            if batch in self._shown:
                self._store.mirror(self._as_ordered(self._shown[batch]).model_copy(update={"counts": counts}))
                self.speeds.setdefault(batch, Speed()).note(anyio.current_time(), counts.settled)
        before, self._together = self._together, {}
        for batch, whole in self._fleet.wholes.items():
            parts = [self._as_now(part) for part in whole.parts]
            made_of = self._together[batch] = (whole.listed, *parts)
            if not _are_same(made_of, before.get(batch, ())):  # of a batch at rest, they stay the same
                self._store.mirror(whole.together(parts))
            self.speeds.setdefault(batch, Speed()).note(anyio.current_time(), self._store[batch].counts.settled)

    def _as_ordered(self, listed: ListedBatch) -> Submission:
        if not listed.orders:
            return listed.submission
        state = ShardedBatch(listed, [listed]).state_of(listed.submission)
        return listed.submission.model_copy(update={"state": state})

    def _as_now(self, part: ListedBatch) -> Submission:
        """Return a part with its present counts."""
        batch = part.submission.id
        known = self._store[batch] if self._fleet.owns(batch) else part.submission
        runner = self._runners.get(batch)
        counts = runner.counts() if runner is not None else self._fleet.counts(batch)
        return known if counts is None else known.model_copy(update={"counts": counts})

    async def bring_settings(self, batch: str) -> None:
        """Bring the batch file and the schema of a batch to this machine.

        Raises:
            LogUnreachable: the store does not answer.
            OutputError: they cannot be written.
        """
        listed = self._fleet.wholes[batch].listed
        names = listed.files.keys() - {listed.submission.jobs_file}
        await anyio.to_thread.run_sync(self._fleet.bring_files, listed, names)

    async def bring_output(self, batch: str) -> None:
        """Bring what all parts of a batch have written to the batch's output directory, unless that was done just now.

        Raises:
            LogUnreachable: the store does not answer.
            LedgerError: a log is damaged.
            OutputError: it cannot be written.
        """
        async with self._turns.setdefault(batch, anyio.Lock()):
            began = anyio.current_time()
            if began < self._again_at.get(batch, began):
                return
            await self.bring_settings(batch)
            whole = self._fleet.wholes[batch]
            out_dir = self._directory.out_dir(whole.listed.submission)
            await anyio.to_thread.run_sync(pull_sharded_batch, self._fleet.url, whole, out_dir)
            took_s = anyio.current_time() - began
            self._again_at[batch] = anyio.current_time() + max(LEAST_REST_S, REST_PER_S * took_s)

    async def order(
        self,
        batch: str,
        verb: OrderVerb,
        allowed: frozenset[BatchState],
        what: str,
        *,
        retry: RetryOrder | None = None,
        **changes: Any,
    ) -> Submission:
        """Order something of a batch that other workers have, or parts of it; return it as it is once they have obeyed.

        Raises:
            WrongState: the state of the batch does not allow it; `what` says what cannot be done.
            LogUnreachable: the store does not answer.
        """
        state = self._store[batch].state
        if state not in allowed:
            raise WrongState(f"batch {batch} is {state}: it cannot be {what}")
        await self._fleet.order(batch, verb, changes, retry)
        self.mirror()
        return self._store[batch]


def _are_same(some: Sequence[object], others: Sequence[object]) -> bool:
    """True if these are the very same objects: to compare all that they hold would take longer than what it saves."""
    return len(some) == len(others) and all(map(is_, some, others))
