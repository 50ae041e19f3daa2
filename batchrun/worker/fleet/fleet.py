"""A worker's connection to its fleet: the list of batches, the page, and this worker's place on it."""

import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import structlog
from pydantic import ValidationError

from batchrun.config import Config
from batchrun.config.replica_settings import ReplicaConfig
from batchrun.errors import ConfigError, LogUnreachable
from batchrun.ledger.shared_log.log_store import open_part, part_url
from batchrun.output.atomic_write import replace_text
from batchrun.runtime.private_files import read_private
from batchrun.runtime.shell_command import shell_command
from batchrun.runtime.steady_time import boot_time
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.fleet.batch_carriers import (
    carrier_words,
    last_carrier_words,
    name_on_list,
    other_carrier,
    shard_carriers_words,
)
from batchrun.worker.fleet.fleet_list import LIST_LOG, FleetList, ListedBatch
from batchrun.worker.fleet.fleet_members import Member, Page
from batchrun.worker.fleet.own_member import OwnMember
from batchrun.worker.fleet.sharded_batch import ShardedBatch, find_sharded_batches
from batchrun.worker.fleet.sharded_order import OrderVerb, ShardedOrder
from batchrun.worker.fleet.shared_page import PAGE_LOG, SharedPage
from batchrun.worker.submission import BatchCounts, RetryOrder, Submission
from batchrun.worker.submission_store import UnknownBatch, WrongState

T = TypeVar("T")

#: Seconds for which a worker does not take a batch again that it could not open.
REFUSED_S = 10.0
#: Why a batch from before this fleet waits.
LEFT_ALONE = (
    "it is not on the list of this fleet: it goes on, and takes orders, once this worker is started without this"
    " --fleet, as it was before"
)
#: Seconds that a command waits until this worker has taken a batch that no worker carries out.
TAKE_LIMIT_S = 20.0

_log = structlog.get_logger()


class Fleet:
    """The fleet, as one worker sees it; open it with `open_fleet`.

    Methods raise:
        LogUnreachable: the store does not answer.
    """

    def __init__(
        self, url: str, lease_s: float, pages: SharedPage, batches: FleetList, directory: DataDirectory
    ) -> None:
        self.url = url
        self.lease_s = lease_s
        self.pages = pages
        #: The page and the list that were read last.
        self.page = Page()
        #: The batches that workers carry out, the parts of those in shards among them.
        self.listed: Mapping[str, ListedBatch] = {}
        #: Batches of the list that a worker is to carry out: they are under way, or have orders.
        self.to_carry_out: set[str] = set()
        #: All batches of the list, also those in shards.
        self._on_list: AbstractSet[str] = frozenset()
        #: How many entries of the list that is.
        self.list_length = 0
        #: The batches in shards.
        self.wholes: Mapping[str, ShardedBatch] = {}
        #: Set once page and list were read.
        self.was_read = anyio.Event()
        #: Why the store cannot be reached; empty: it can.
        self.trouble = ""
        #: Batches that this worker carries out, and whose files are here.
        self.ready: set[str] = set()
        #: Batches that this worker could not open, and when it tries them again.
        self._refused: dict[str, float] = {}
        #: Batches that this worker is to take, since somebody has given it an order for them.
        self.wanted: set[str] = set()
        #: Set when the page is to be looked at before its time.
        self.alarm = anyio.Event()
        self.address = ""
        #: True once this worker leaves its batches to the others, for good.
        self.is_leaving = False
        self._batches = batches
        self._member_file = directory.path / "member"
        self._directory = directory
        #: Of the thread that looks at the page and the list. It is none of those that all others share: while they
        #: wait for a slow store, this worker must not lose its place.
        self._thread = anyio.CapacityLimiter(1)
        self.member = self.new_member()

    def join_as(self, address: str) -> None:
        """Note the address at which this worker answers, before it is a member."""
        self.address = address
        self.member.introduce(address)

    @property
    def has_others(self) -> bool:
        """True if there are other members."""
        return any(each != self.member.id and not member.has_left for each, member in self.page.members.items())

    def new_member(self) -> OwnMember:
        """Become a new member; this process, or its predecessor in this directory, is the old one no more."""
        try:
            predecessor = read_private(self._member_file).decode().strip()
        except OSError:
            predecessor = ""
        name = f"{socket.gethostname()} (process {os.getpid()})"
        blank = Member(name=name, address=self.address, lease_s=self.lease_s)
        self.member = OwnMember(secrets.token_hex(8), blank, predecessor)
        replace_text(self._member_file, f"{self.member.id}\n")
        self.ready.clear()
        return self.member

    async def call(self, verb: Callable[[], T]) -> T:
        """Call a verb of the store in a thread, one at a time."""
        return await anyio.to_thread.run_sync(verb, limiter=self._thread)

    async def read(self) -> None:
        """Read the page and the list."""
        self.page = await self.call(self.pages.read)
        self._note_list(await self.call(self._batches.read))
        self.was_read.set()

    def _note_list(self, listed: Mapping[str, ListedBatch]) -> None:
        if self._batches.length == self.list_length:
            return
        self.list_length = self._batches.length
        self._on_list = listed.keys()
        self.wholes = find_sharded_batches(listed)
        # One in shards is carried out by its parts alone, also if it lacks one.
        self.listed = {batch: entry for batch, entry in listed.items() if entry.submission.shards is None}
        self.to_carry_out = {
            batch
            for batch, entry in self.listed.items()
            if entry.submission.state.is_under_way or self.orders_for(batch)
        }

    def refuse_unread(self) -> None:
        """Check that page and list were read: until then, most batches are not known here, nor who has them.

        Raises:
            LogUnreachable: they were not.
        """
        if not self.was_read.is_set():
            reason = self.trouble or "the worker has not read the fleet's list of batches yet"
            raise LogUnreachable(f"not possible now: {reason}; try again in a moment")

    def note_trouble(self, reason: str) -> None:
        """Note why the store cannot be reached; empty: it can again."""
        if bool(reason) != bool(self.trouble):
            _log.warning("fleet_unreachable", reason=reason) if reason else _log.info("fleet_reached")
        self.trouble = reason

    # Batches in shards.

    def whole_of(self, part: Submission) -> ShardedBatch | None:
        """Return the batch of which another one is a part, or itself; None: it is not on the list any more."""
        if part.part_of is not None:
            return self.wholes.get(part.part_of)
        listed = self.listed.get(part.id)
        return None if listed is None else ShardedBatch(listed, [listed])

    def orders_for(self, batch: str) -> list[ShardedOrder]:
        """Return the orders that a batch, or part of one, has not obeyed yet."""
        listed = self.listed.get(batch)
        whole = self.whole_of(listed.submission) if listed is not None else None
        return [] if listed is None or whole is None else whole.orders_for(listed.submission)

    def trip_of(self, part: Submission) -> str:
        """Return why the breaker of a batch in shards has tripped since a part of it was resumed; empty: it has not."""
        shares = self.page.wholes.get(part.part_of) if part.part_of is not None else None
        trip = shares.trip if shares is not None else None
        return trip.reason if trip is not None and trip.after >= part.resumed else ""

    async def order(
        self, batch: str, verb: OrderVerb, changes: Mapping[str, Any], retry: RetryOrder | None = None
    ) -> None:
        """Order something of a batch, or of all its parts: the workers that have them obey once they have read it.

        Args:
            batch: in shards, or one that another worker carries out.
            verb: what all parts are to do.
            changes: of weight, priority or settings.
            retry: which jobs are retried; one with the same id is ordered once.
        """

        def decide(listed: Mapping[str, ListedBatch]) -> ListedBatch | None:
            whole = find_sharded_batches(listed).get(batch)
            if whole is None and batch in listed:
                whole = ShardedBatch(listed[batch], [listed[batch]])
            if whole is None or (retry is not None and whole.has_retry(retry.id)):
                return None  # it was deleted meanwhile, or ordered before
            return whole.with_order(verb, changes, retry)

        await self.call(partial(self._batches.append, decide))
        self._note_list(await self.call(self._batches.read))
        self.alarm.set()

    # What Worker and views ask.

    def owns(self, batch: str) -> bool:
        """True if this worker carries a batch out."""
        return batch in self.ready

    def carrier(self, batch: str) -> Member | None:
        """Return the other worker that carries a batch out; None: this one does, or none."""
        return other_carrier(self.page, self.member.id, batch)

    def carrier_words(self, batch: str) -> str:
        """Say which other worker carries a batch out, or which workers do that in shards; empty: this one, or none."""
        if (whole := self.wholes.get(batch)) is not None:
            return shard_carriers_words(self.page, whole)
        carrier = self.carrier(batch)
        return "" if carrier is None else carrier_words(carrier)

    def is_from_before(self, batch: str) -> bool:
        """True if a batch was never on the list: this worker had it before it was in this fleet."""
        return self.was_read.is_set() and batch not in self._on_list and batch not in self.deleted

    def refuse_from_before(self, batch: Submission) -> None:
        """Refuse an order for a batch from before this fleet.

        Raises:
            WrongState: it is one.
        """
        if self.is_from_before(batch.id):
            raise WrongState(f"batch {batch.id} is {batch.state}: {LEFT_ALONE}")

    def counts(self, batch: str) -> BatchCounts | None:
        """Return the counts of a batch that another worker carries out, unless the list has newer ones."""
        carrier, listed = self.carrier(batch), self.listed.get(batch)
        if carrier is None or listed is None or not listed.submission.state.is_under_way:
            return None
        counts = carrier.batches[batch].counts
        return counts if counts != BatchCounts() else None  # it has just taken the batch

    def counts_of_others(self) -> Iterator[tuple[str, BatchCounts]]:
        """Yield the batches that other workers carry out, and their counts, unless the list has newer ones."""
        for member_id, member in self.page.members.items():
            if member_id != self.member.id and not member.has_left:
                for batch in member.batches:
                    if (counts := self.counts(batch)) is not None:
                        yield batch, counts

    def refuse_others(self, batch: str) -> None:
        """Check that no other worker carries a batch out.

        Raises:
            WrongState: One does; it says which.
        """
        if (carrier := self.carrier(batch)) is not None:
            raise WrongState(
                f"batch {batch} is carried out by the worker {carrier.name}: ask that one, at {carrier.address}"
            )

    def refuse_without_files(self, batch: str) -> None:
        """Check that this machine has what a batch has written, all of it.

        Raises:
            WrongState: It may lack some; the error says where all of it is.
            LogUnreachable: It is not known yet where that is.
        """
        self.refuse_unread()
        if self.is_from_before(batch):
            return
        if (whole := self.wholes.get(batch)) is not None:
            parts = f"{whole.parts[0].submission.id} to {whole.parts[-1].submission.id}"
            raise WrongState(f"batch {batch} is in shards, and each is mended by itself: {parts}")
        self.refuse_others(batch)
        mine, listed = self.page.members.get(self.member.id), self.listed.get(batch)
        is_here = mine is not None and listed is not None and listed.worker == name_on_list(mine)
        if not self.owns(batch) and not is_here:
            if listed is not None and listed.submission.state.is_under_way:  # as just after this worker's restart
                raise LogUnreachable(f"not possible now: no worker has taken batch {batch} yet; try again in a moment")
            pull = shell_command("batchrun", "pull", part_url(self.url, f"batch-{batch}"), "DIR")
            raise WrongState(f"batch {batch} {last_carrier_words(listed)}; `{pull}` brings its files here")

    def with_log(self, config: Config, batch: str) -> Config:
        """Return a batch's configuration with its shared log.

        Raises:
            ConfigError: A take-over would be slower than a start request may take effect.
        """
        if self.lease_s >= config.limits.start_horizon_s:
            raise ConfigError(
                f"must be more than the fleet's lease of {self.lease_s:g} s", key="limits.start_horizon_s"
            )
        replica = ReplicaConfig(url=part_url(self.url, f"batch-{batch}"), lease_s=self.lease_s)
        return config.model_copy(update={"replica": replica})

    # What Worker does.

    async def submit(self, submission: Submission) -> ListedBatch:
        """Put a checked batch, whose files are in its directory, on the list; the same key is submitted once."""
        directory = self._directory.of(submission.id)
        # Beside the looks at the page: a large job file takes longer than a lease.
        files = await anyio.to_thread.run_sync(store_files, self._batches, submission, directory)
        listed = await self.call(partial(list_batch, self._batches, submission, files))
        self._note_list(await self.call(self._batches.read))
        self.alarm.set()
        return listed

    @asynccontextmanager
    async def taken(self, batch: str) -> AsyncIterator[None]:
        """Have this worker carry out a batch, so that it can obey an order, and keep it meanwhile.

        Raises:
            WrongState: Another worker carries it out.
            UnknownBatch: It is not on the list.
            LogUnreachable: It could not be taken in time.
        """
        self.wanted.add(batch)
        try:
            with anyio.move_on_after(TAKE_LIMIT_S):
                while not self.owns(batch):
                    self.refuse_others(batch)
                    if batch not in self.listed:
                        raise UnknownBatch(f"there is no batch {batch!r}")
                    self.alarm.set()
                    await anyio.sleep(0.05)
            if not self.owns(batch):
                reason = self.trouble or "the fleet is busy"
                raise LogUnreachable(f"batch {batch} could not be taken: {reason}; try again")
            yield
        finally:
            self.wanted.discard(batch)

    async def publish(self, submission: Submission, spent_micro_usd: int | None = None) -> None:
        """Put what has become of a batch of this worker on the list, if it is new.

        Args:
            submission: the batch.
            spent_micro_usd: what it has spent and reserved, if it is closed, in millionths of a US dollar.
        """
        mine, known = self.page.members.get(self.member.id), self.listed.get(submission.id)
        if mine is None or submission.id not in mine.batches:
            return
        taken_at, worker = mine.batches[submission.id].taken_at, name_on_list(mine)
        changes: dict[str, object] = {"submission": submission, "worker": worker}
        if spent_micro_usd is not None:
            changes["spent_micro_usd"] = spent_micro_usd
        if known is not None and all(getattr(known, name) == value for name, value in changes.items()):
            return

        def decide(listed: Mapping[str, ListedBatch]) -> ListedBatch | None:
            known = listed.get(submission.id)
            if known is None or known.taken_at > taken_at or not self.member.may_start():
                return None
            return known.model_copy(update={**changes, "taken_at": taken_at})

        await self.call(partial(self._batches.append, decide))
        self._note_list(await self.call(self._batches.read))

    async def delete(self, batch: str) -> None:
        """Delete a batch from the list, with its parts; all of it must be taken, and rest."""

        def decide(listed: Mapping[str, ListedBatch]) -> ListedBatch | None:
            known = listed.get(batch)
            if known is None or not self.member.may_start():
                return None
            carried = self.page.members[self.member.id].batches.get(batch)
            taken_at = known.taken_at if carried is None else max(known.taken_at, carried.taken_at)
            return known.model_copy(update={"deleted": True, "taken_at": taken_at})

        await self.call(partial(self._batches.append, decide))
        self._note_list(await self.call(self._batches.read))
        if batch not in self.deleted:
            raise LogUnreachable(f"batch {batch} could not be deleted: this worker has lost its place; try again")

    @property
    def deleted(self) -> set[str]:
        """Batches that were deleted."""
        return self._batches.deleted

    def parts_of(self, batch: str) -> list[str]:
        """Return the ids of what is carried out of a batch: its parts, or itself; none: it is not on the list.

        Raises:
            WrongState: it is a part of another batch.
        """
        if (whole := self.wholes.get(batch)) is not None:
            return [part.submission.id for part in whole.parts]
        if (listed := self.listed.get(batch)) is None:
            return []
        if listed.submission.part_of is not None:
            raise WrongState(f"batch {batch} is a part of {listed.submission.part_of}: delete that one")
        return [batch]

    def is_left_to_another(self, batch: str) -> bool:
        """True if another worker, which is there, has carried a batch out last: it decides how long that is kept."""
        listed = self.listed.get(batch)
        others = [each for member, each in self.page.members.items() if member != self.member.id and not each.has_left]
        return listed is not None and listed.worker in [f"{each.name} at {each.address}" for each in others]

    async def give_back(self, submission: Submission, reason: str) -> None:
        """Leave a batch to the others that this worker cannot open, and whose Runs may be live."""
        batch = submission.id
        _log.warning("batch_given_back", batch=batch, reason=reason)
        with suppress(LogUnreachable):
            await self.publish(submission)
        self.ready.discard(batch)
        self._refused[batch] = boot_time() + REFUSED_S
        self.member.give_back(batch)
        self.alarm.set()

    @property
    def refused(self) -> set[str]:
        """Batches that this worker could not open a while ago."""
        self._refused = {batch: until for batch, until in self._refused.items() if until > boot_time()}
        return self._refused.keys() - self.wanted

    def prepare(self, batch: ListedBatch) -> None:
        """Bring the files of a batch to this machine, and create its log; call it in a thread, beside other verbs."""
        self.bring_files(batch, batch.files)
        with open_part(self.url, f"batch-{batch.submission.id}"):
            pass

    def bring_files(self, batch: ListedBatch, names: Iterable[str]) -> None:
        """Bring some files of a batch to its directory; call it in a thread."""
        directory = self._directory.of(batch.submission.id)
        directory.mkdir(mode=0o700, exist_ok=True)
        for name in names:
            self._batches.get_file(batch.files[name], directory / name)


def store_files(
    batches: FleetList, submission: Submission, directory: Path, jobs: Path | None = None
) -> dict[str, list[str]]:
    """Store a batch's files; return the names of their objects. May be called beside other verbs.

    Args:
        batches: the list.
        submission: what is submitted.
        directory: of the files.
        jobs: the job file, if it is elsewhere.
    """
    names = (submission.batch_file, submission.jobs_file, submission.schema_file)
    paths = {name: directory / name for name in names if name is not None}
    if submission.jobs_file is not None and jobs is not None:
        paths[submission.jobs_file] = jobs
    return {name: batches.put_file(path) for name, path in paths.items()}


def list_batch(batches: FleetList, submission: Submission, files: dict[str, list[str]]) -> ListedBatch:
    """Put a batch, whose files are stored, on the list; return the one that was submitted with the same key, if any.

    Raises:
        ConfigError: A file is too large, or its job file is called otherwise than a job file.
    """
    try:
        entry = ListedBatch(submission=submission, files=files)
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, "), key="jobs.file") from None
    key = submission.idempotency_key
    before: list[ListedBatch] = []

    def decide(listed: Mapping[str, ListedBatch]) -> ListedBatch | None:
        before[:] = [each for each in listed.values() if key is not None and each.submission.idempotency_key == key]
        before.extend(each for each in listed.values() if each.submission.id == submission.id)
        return None if before else entry

    return batches.append(decide) or before[0]


@asynccontextmanager
async def open_fleet(url: str, lease_s: float, directory: DataDirectory) -> AsyncIterator[Fleet]:
    """Open the store of a fleet.

    Raises:
        ConfigError, LogUnreachable: as `open_store` does.
    """
    with ExitStack() as stack:
        pages = await anyio.to_thread.run_sync(lambda: stack.enter_context(open_part(url, PAGE_LOG)))
        batches = await anyio.to_thread.run_sync(lambda: stack.enter_context(open_part(url, LIST_LOG)))
        yield await anyio.to_thread.run_sync(
            lambda: Fleet(url, lease_s, SharedPage(pages), FleetList(batches), directory)
        )
