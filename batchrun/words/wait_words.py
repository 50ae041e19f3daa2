"""What a batch waits for, in words: the same on the terminal, in `status`, in `batch.log` and on the worker's page."""

from collections.abc import Sequence

from batchrun.model import WaitKind, WaitReason
from batchrun.words.number_words import counted, duration
from batchrun.words.terminal_text import one_line

#: Max characters of a line of reasons.
_MAX_CHARS = 3000


def wait_words(reasons: Sequence[WaitReason], waited_s: float, noted_s: float = 0.0) -> str:
    """Return one line, `waiting 15 s: 3 live Runs`; "" without a reason.

    Args:
        reasons: what is waited for.
        waited_s: for how long.
        noted_s: how long ago the reasons were noted.
    """
    if not reasons:
        return ""
    ordered = sorted(reasons, key=lambda each: list(WaitKind).index(each.kind))
    return f"waiting {duration(waited_s)}: {one_line('; '.join(_words(each, noted_s) for each in ordered), _MAX_CHARS)}"


def _words(reason: WaitReason, noted_s: float) -> str:  # noqa: C901, PLR0911, PLR0912 - one phrase per kind
    count, detail = reason.count, reason.detail
    left_s = None if reason.left_s is None else max(0.0, reason.left_s - noted_s)
    soon = f", next try in {duration(left_s)}" if left_s else ""
    match reason.kind:
        case WaitKind.SHARED_LOG:
            return f"the shared log cannot be reached ({detail}); nothing is started, live Runs are followed"
        case WaitKind.OUTAGE:
            return f"the platform cannot be reached ({detail})"
        case WaitKind.DISK_LOW:
            return f"room on the disk ({detail}); nothing is started, live Runs are followed"
        case WaitKind.STARTS_REFUSED:
            return f"the platform refuses starts for now{soon}{f' ({detail})' if detail else ''}"
        case WaitKind.FULL_ACCOUNT:
            return f"the account takes no further Run beside {count:,} of this process{soon}"
        case WaitKind.OTHER_BATCHES:
            return "other batches use the account's Runs"
        case WaitKind.BUDGET:
            return "the budget is reserved for Runs whose cost is not final"
        case WaitKind.DOUBTS:
            left = "until the platform answers" if left_s is None else f"decided within {duration(left_s)}"
            return f"{counted(count, 'start')} in doubt, {left}"
        case WaitKind.FAILED_READS:
            return f"{counted(count, 'read')} without success so far, retried ({detail})"
        case WaitKind.RETRIES:
            first = f", the first in {duration(left_s)}" if left_s else ""
            return f"{counted(count, 'job')} before the next attempt{first}"
        case WaitKind.RATE:
            return f"the rate of starts or requests{soon}"
        case WaitKind.STARTING:
            return f"{counted(count, 'start')} without an answer yet"
        case WaitKind.MEMORY:
            return "the next Run needs more memory than is left"
        case WaitKind.GROUP:
            return "the next Run's group has all its Runs live"
        case WaitKind.QUEUED_RUNS:
            return f"{count:,} of them queued at the platform (READY)"
        case WaitKind.LIVE_RUNS:
            return counted(count, "live Run")
        case WaitKind.OUTPUT:
            return f"the output of {counted(count, 'Run')}"
        case WaitKind.DISK:
            return f"the disk, to write {counted(count, 'record')}"
        case WaitKind.READER:
            return f"the reader of the records, which has not taken {count:,}"
        case WaitKind.LINES:
            return "the next lines of the job file"
        case WaitKind.COSTS:
            return "the final costs of Runs"
