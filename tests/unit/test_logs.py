from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from blockbuster import BlockBuster
from structlog.contextvars import bound_contextvars

from batchrun.logs import FILE_NAME, logging_to, silence


@pytest.fixture(autouse=True)
def unconfigured(blockbuster: BlockBuster) -> Iterator[None]:
    """Leave no configuration behind."""
    yield
    structlog.reset_defaults()


def lines(file: Path) -> list[Any]:
    """Return what stands in a log, without its times."""
    read = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    for line in read:
        assert line.pop("timestamp").endswith("Z")
    return read


def test_events_become_lines_of_json(tmp_path: Path) -> None:
    """With level, time and the keys that are bound around them."""
    log = structlog.get_logger()
    with logging_to(tmp_path / FILE_NAME), bound_contextvars(job_key="k"):
        log.info("job_settled", outcome="failed", line=3)
        log.warning("start_in_doubt", mark="m", path=tmp_path)
    assert lines(tmp_path / FILE_NAME) == [
        {"event": "job_settled", "level": "info", "job_key": "k", "outcome": "failed", "line": 3},
        {"event": "start_in_doubt", "level": "warning", "job_key": "k", "mark": "m", "path": str(tmp_path)},
    ]


@pytest.mark.parametrize(("level", "events"), [("info", ["b", "c"]), ("debug", ["a", "b", "c"]), ("warning", ["c"])])
def test_what_lies_below_the_level_is_left_out(tmp_path: Path, level: str, events: list[str]) -> None:
    """Polls are debug and not written unless asked for."""
    log = structlog.get_logger()
    with logging_to(tmp_path / FILE_NAME, level=level):
        log.debug("a")
        log.info("b")
        log.warning("c")
    assert [line["event"] for line in lines(tmp_path / FILE_NAME)] == events


def test_a_log_is_continued_and_made_with_its_first_line(tmp_path: Path) -> None:
    """A command that says nothing leaves no file; a second one appends."""
    with logging_to(tmp_path / FILE_NAME):
        pass
    assert not (tmp_path / FILE_NAME).exists()
    for n in range(2):
        with logging_to(tmp_path / FILE_NAME):
            structlog.get_logger().info("begun", n=n)
    assert [line["n"] for line in lines(tmp_path / FILE_NAME)] == [0, 1]


def test_a_log_that_cannot_be_written_costs_log_lines_only(tmp_path: Path) -> None:
    """The batch goes on without it."""
    with logging_to(tmp_path / "missing" / FILE_NAME):
        structlog.get_logger().info("begun")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_as_json_is_written_as_well_as_it_can_be(tmp_path: Path) -> None:
    """No event can break the code that logs it."""
    with logging_to(tmp_path / FILE_NAME):
        structlog.get_logger().info("date_unreadable", date="\udcff")
        structlog.get_logger().info("large", n=2**70)
    assert [line["event"] for line in lines(tmp_path / FILE_NAME)] == ["date_unreadable", "large"]


def test_silence_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither to stdout, which is for data, nor to stderr."""
    silence()
    structlog.get_logger().error("bad", a=1)
    assert capsys.readouterr() == ("", "")
