from pathlib import Path

import pytest

from batchrun import errors
from batchrun.cli import main
from batchrun.errors import (
    ApiError,
    BatchRefused,
    BatchrunError,
    ConfigError,
    ConnectFailed,
    JobFileError,
    LedgerError,
    OutputError,
    RateLimited,
    SeveralLines,
    TransportError,
    first_error,
)


def test_every_error_is_one_of_ours() -> None:
    """Catching the root of the tree catches all."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert {each.__name__ for each in classes if not issubclass(each, BatchrunError)} == set()


def test_the_tree_separates_errors_that_started_nothing() -> None:
    """A failed connection is a transport error, a ledger's an output error, and a 429 an answer."""
    assert issubclass(ConnectFailed, TransportError)
    assert issubclass(LedgerError, OutputError)
    assert issubclass(RateLimited, ApiError)
    assert not issubclass(TransportError, ApiError)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("is missing", key="a.b", file=Path("x.toml")), "x.toml: a.b: is missing"),
        (ConfigError("is missing", key="a.b"), "a.b: is missing"),
        (ConfigError("is no TOML", file=Path("x.toml")), "x.toml: is no TOML"),
        (ConfigError("bad"), "bad"),
        (JobFileError("not JSON", file="jobs.csv", line=7), "jobs.csv:7: not JSON"),
        (JobFileError("is empty", file="jobs.csv"), "jobs.csv: is empty"),
        (JobFileError(SeveralLines(["2 lines:", "  a\nb", "  c"]), file="jobs.csv"), "jobs.csv: 2 lines:\n  a b\n  c"),
    ],
)
def test_an_error_says_where(error: BatchrunError, text: str) -> None:
    """File, key or line come first, if they are known."""
    assert str(error) == text


@pytest.mark.parametrize(
    "error",
    [
        BatchrunError("there is a\nb"),
        ConfigError("is no\u2028column", key="a\nb", file=Path("a\r\nb")),
        JobFileError("has a\nb", file="a\nb.csv", line=1),
        ApiError(status=400, type="a\nb", message="a\n\nb", method="GET", path="/"),
        ConnectFailed("a\x85b", advice="\nb"),
    ],
)
def test_no_name_in_an_error_begins_a_line_of_its_own(error: BatchrunError) -> None:
    """It would read like one of ours: `next      batchrun …`. Columns, files and a platform's words are strangers'."""
    assert len(str(error).splitlines()) == 1


def test_the_first_error_of_ours_is_found_in_a_group() -> None:
    """At any depth, and before its consequences."""
    ours, later = BatchRefused("first"), OutputError("later")
    group = BaseExceptionGroup("g", [ValueError(), ExceptionGroup("h", [KeyError(), ours]), later])
    assert first_error(group) is ours


def test_a_group_without_an_error_of_ours_is_a_bug_and_not_hidden() -> None:
    """The group itself is raised."""
    group = ExceptionGroup("g", [ValueError("a bug")])
    with pytest.raises(ExceptionGroup) as raised:
        first_error(group)
    assert raised.value is group


@pytest.mark.parametrize(
    "error", [MemoryError(), ExceptionGroup("", [RuntimeError("the commit failed"), MemoryError()])]
)
def test_a_process_without_memory_ends_with_what_to_do(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no bug: exit 6, one line, to be resumed."""
    assert main._explain(error) == 6
    said = capsys.readouterr().err
    assert said.startswith("batchrun: this process is out of memory.")
    assert (said.count("\n"), "limits.max_buffer_mb" in said, "bug" in said) == (1, True, False)


@pytest.mark.parametrize("is_in_group", [False, True])
def test_a_process_without_further_threads_ends_with_what_to_do(
    is_in_group: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no bug: exit 6, one line, to be resumed."""
    error: Exception = RuntimeError("can't start new thread")
    if is_in_group:
        error = ExceptionGroup("", [ValueError(), ExceptionGroup("", [error])])
    assert main._explain(error) == 6
    said = capsys.readouterr().err
    assert said.startswith("batchrun: this process may start no further thread.")
    assert (said.count("\n"), "TasksMax" in said, "bug" in said) == (1, True, False)
