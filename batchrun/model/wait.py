"""What a batch waits for while nothing of it starts or ends. The sentences are in `words/wait_words.py`."""

from enum import StrEnum

from batchrun.runtime.fast_dataclasses import dataclass


class WaitKind(StrEnum):
    """The kinds of reasons for a wait, those that a person should know first at the top."""

    #: The shared log cannot be reached, so nothing can be noted; `detail` says why.
    SHARED_LOG = "shared_log"
    #: The platform, or one of its endpoints, cannot be reached; `detail` says why.
    OUTAGE = "outage"
    #: The disk is almost full, so nothing is started; `detail` says how full.
    DISK_LOW = "disk_low"
    #: The platform refuses starts for a while (429, say); `detail` is the last refusal, `left_s` until the next start.
    STARTS_REFUSED = "starts_refused"
    #: The account takes no more Runs than `count` of ours; `left_s` until the next try.
    FULL_ACCOUNT = "full_account"
    #: Other batches of this process use the account's Runs, or are next.
    OTHER_BATCHES = "other_batches"
    #: The next start fits into the budget once final costs release reservations.
    BUDGET = "budget"
    #: Starts in doubt; `left_s` until the last of them is decided, at the latest; None: the platform does not answer.
    DOUBTS = "doubts"
    #: Reads that fail again and again; `detail` is the last failure.
    FAILED_READS = "failed_reads"
    #: Jobs before their next attempt; `left_s` until the first of them is due.
    RETRIES = "retries"
    #: The rate of starts, or of all requests; `left_s` until the next start.
    RATE = "rate"
    #: Starts that are noted and sent, without an answer yet.
    STARTING = "starting"
    #: Memory for the next Run, beside the live ones.
    MEMORY = "memory"
    #: A Run of a group that has as many live Runs as it may have.
    GROUP = "group"
    #: Live Runs, queued ones among them.
    LIVE_RUNS = "live_runs"
    #: Live Runs that wait in the platform's own queue.
    QUEUED_RUNS = "queued_runs"
    #: Output that is being collected.
    OUTPUT = "output"
    #: Records that are being written to the disk.
    DISK = "disk"
    #: Records that the batch's reader has not taken.
    READER = "reader"
    #: Lines of the job file.
    LINES = "lines"
    #: Costs that are not final.
    COSTS = "costs"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitReason:
    """One thing that a batch waits for."""

    kind: WaitKind
    count: int = 0
    #: Seconds until it is over or tried again; None: unknown.
    left_s: float | None = None
    detail: str = ""
