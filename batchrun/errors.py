"""Every error batchrun raises on purpose, in one tree, split by who can act.

    BatchrunError
    ├── ConfigError             the configuration: file and dotted key
    │   └── AnotherBatch        the output directory holds the results of another batch
    ├── JobFileError            the job file: file and line
    ├── OutputError             this machine: disk, permissions, a lock, a damaged file
    │   ├── JobFileLost         the job file, which could be read at first, is gone or cannot be opened
    │   ├── LogUnreachable      the shared log does not answer
    │   ├── OutputLost          files of the batch were moved or removed while it runs: no start can be noted
    │   └── LedgerError         the ledger cannot or must not be written any further
    │       ├── DamagedLedger   the ledger is missing, damaged or older than its records: `batchrun repair` rebuilds it
    │       └── Superseded      another owner has taken the batch over
    ├── BatchRefused            the platform refuses the whole batch (401, 403, unknown task, no credit)
    ├── ApiError                the API answered with an error
    │   ├── RateLimited         429: nothing happened
    │   ├── ResourcesBusy       no memory or no run slot in the account right now: nothing happened
    │   ├── Unauthorized        401, 403
    │   ├── TokenUnconfirmed    401 that a second look did not confirm: nothing happened
    │   ├── OutOfCredit         402 and alike: permanent for the batch
    │   ├── NotFound            404
    │   └── ServerFailed        5xx, 408: the effect of a request that writes is unknown
    ├── TransportError          no readable answer: the effect of a request that writes is unknown
    │   ├── ConnectFailed       the connection was never established: nothing happened
    │   ├── ForeignAnswer       an answer, but not the API's: a proxy, a firewall, a login page
    │   ├── UnreadableAnswer    an answer of the API, but not what was asked for
    │   └── NoUsableAnswer      a read was tried again for as long as its caller waits
    └── AnswerTooLarge          the body of an answer does not fit into memory and was not read to its end

A Run that failed is not an error: it is an Outcome.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Self


class SeveralLines(str):
    """A text of several lines, for an error that lists something."""

    __slots__ = ()

    def __new__(cls, lines: Iterable[str]) -> Self:
        """Join lines; line ends within one of them, as in a name from outside, become blanks."""
        return super().__new__(cls, "\n".join(map(_in_one_line, lines)))


def _in_one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _located(where: str, problem: str) -> str:
    """Return a problem behind the place where it is."""
    if not where:
        return problem
    first, *others = problem.split("\n") if isinstance(problem, SeveralLines) else [problem]
    return SeveralLines([f"{where}: {first}", *others])


class BatchrunError(Exception):
    """Base of every error that batchrun raises on purpose; its text is written for the user.

    The text is one line, or SeveralLines: those that names of columns, files or properties hold become spaces.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(text if isinstance(text, SeveralLines) else _in_one_line(text))


class ConfigError(BatchrunError):
    """The configuration cannot be used; nothing was started.

    Args:
        problem: what is wrong and what to do.
        key: the dotted key with the problem, if there is one.
        file: the file that sets the key; None if a flag or the environment does.
    """

    def __init__(self, problem: str, *, key: str | None = None, file: Path | None = None) -> None:
        self.problem, self.key, self.file = problem, key, file
        where = ": ".join(str(part) for part in (file, key) if part is not None)
        super().__init__(_located(where, problem))


class AnotherBatch(ConfigError):
    """The output directory holds the results of another batch; nothing was started."""


class JobFileError(BatchrunError):
    """The job file cannot be used.

    Args:
        problem: what is wrong and what to do.
        file: the job file, as the user named it.
        line: the line with the problem (element number in a JSON array), from 1; None for the whole file.
    """

    def __init__(self, problem: str, *, file: Path | str, line: int | None = None) -> None:
        self.problem, self.file, self.line = problem, file, line
        where = f"{file}:{line}" if line is not None else str(file)
        super().__init__(_located(where, problem))


class OutputError(BatchrunError):
    """This machine prevents the work: disk, permissions, a lock, a damaged file."""


class JobFileLost(OutputError):
    """The job file could be read at first, and now this machine cannot; its jobs so far are valid."""


class OutputLost(OutputError):
    """Files of the batch were moved, replaced or removed while it runs: no start may be noted, live Runs can end."""


class LogUnreachable(OutputError):
    """The store of the shared log does not answer, or refuses; what was sent to it may have been noted."""


class LedgerError(OutputError):
    """The ledger cannot or must not be written any further; its commits so far are valid."""


class DamagedLedger(LedgerError):
    """The ledger is missing, damaged or older than the files beside it; nothing was changed."""


class Superseded(LedgerError):
    """Another owner has taken the batch over: no step of the refused commit counts, and none may follow."""


class BatchRefused(BatchrunError):
    """The platform refuses the whole batch; no job was settled because of it, and the batch can be resumed.

    Args:
        reason: what is refused, and what to do.
        answer: the API's answer that shows it.
    """

    def __init__(self, reason: str, answer: "ApiError | None" = None) -> None:
        super().__init__(reason)
        #: True if the token or the account's credit is refused: the same batch may be accepted later.
        self.is_of_account = isinstance(answer, Unauthorized | OutOfCredit)


class ApiError(BatchrunError):
    """The API answered with an error.

    Args:
        status: HTTP status.
        type: the API's `error.type`; empty if the answer has none.
        message: the API's `error.message`.
        method: HTTP method of the request.
        path: path of the request, without the query.
        retry_after_s: seconds from a `Retry-After` header, if there was one.
    """

    def __init__(
        self,
        *,
        status: int,
        type: str,  # noqa: A002 - the API's own word
        message: str,
        method: str,
        path: str,
        retry_after_s: float | None = None,
    ) -> None:
        self.status, self.type, self.message = status, type, message
        self.method, self.path, self.retry_after_s = method, path, retry_after_s
        super().__init__(f"{method} {path}: {status} {type or 'error'}: {message}")


class RateLimited(ApiError):
    """429: the request had no effect; ask again later."""


class ResourcesBusy(ApiError):
    """The account has no memory or no run slot free right now; nothing was started."""


class Unauthorized(ApiError):
    """401 or 403: the token is missing, wrong, or not allowed to do this."""


class TokenUnconfirmed(ApiError):
    """401 for a token that the API accepts in other requests, or that was replaced meanwhile; nothing happened."""


class OutOfCredit(ApiError):
    """The account may not spend more; waiting does not help."""


class NotFound(ApiError):
    """404: there is no such object, or none that this token may see."""


class ServerFailed(ApiError):
    """5xx or 408: whether a request that writes took effect is unknown."""


class TransportError(BatchrunError):
    """No readable answer came; whether a request that writes took effect is unknown."""


class ConnectFailed(TransportError):
    """The connection was never established (DNS, refused, unreachable, TLS): the request had no effect.

    Args:
        reason: what failed, in words.
        is_lasting: True if a person has to change something first: a certificate, a proxy's password.
        advice: what to do, as it follows the reason.
    """

    def __init__(self, reason: str, *, is_lasting: bool = False, advice: str = "") -> None:
        self.reason, self.is_lasting = reason, is_lasting
        super().__init__(f"{reason}{advice}")


class ForeignAnswer(TransportError):
    """Something between here and the API answered in its place; it says nothing about a job, a Run or the token.

    Args:
        reason: what answered, in words.
        status: HTTP status.
        retry_after_s: seconds from a `Retry-After` header, if there was one.
    """

    def __init__(self, reason: str, *, status: int, retry_after_s: float | None = None) -> None:
        self.status, self.retry_after_s = status, retry_after_s
        super().__init__(reason)


class UnreadableAnswer(TransportError):
    """The API answered with something else than was asked for."""


class NoUsableAnswer(TransportError):
    """A read was tried again for as long as its caller waits. The text follows the platform's name.

    Args:
        last: why the last try failed; None: it has no answer yet.
        waited_s: seconds.
    """

    def __init__(self, last: BatchrunError | None, waited_s: float) -> None:
        if last is None:
            super().__init__(f"does not answer within {waited_s:g} s")
        elif isinstance(last, ApiError | UnreadableAnswer):
            super().__init__(f"answers, but not with what was asked for ({last})")
        else:
            super().__init__(f"does not answer ({last})")


class AnswerTooLarge(BatchrunError):
    """The body of an answer is larger than its reader allowed, or than the memory of this process.

    Args:
        size: bytes of the body that are known, or of memory for its values.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"the answer is too large for the memory of this process: at least {size:,} bytes")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one in its group, is that this process got no memory; the others are its consequences."""
    return isinstance(error, MemoryError) or (
        isinstance(error, BaseExceptionGroup) and error.subgroup(MemoryError) is not None
    )


def is_out_of_threads(error: BaseException) -> bool:
    """Whether an error, or one in its group, is that this process may start no further thread."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_out_of_threads, error.exceptions))
    # Python has no class for it. Source: Modules/_threadmodule.c, thread_PyThread_start_new_thread.
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


def first_error(group: BaseExceptionGroup[BaseException]) -> BatchrunError:
    """Return the first BatchrunError in a group; the other errors are its consequences.

    Raises:
        BaseExceptionGroup: the group holds none, which is a bug and must be seen.
    """
    for error in group.exceptions:
        if isinstance(error, BatchrunError):
            return error
        if isinstance(error, BaseExceptionGroup) and error.subgroup(BatchrunError) is not None:
            return first_error(error)
    raise group
