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
    ],
)
def test_an_error_says_where(error: BatchrunError, text: str) -> None:
    """File, key or line come first, if they are known."""
    assert str(error) == text


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
