import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from blockbuster import BlockBuster
from structlog.contextvars import bound_contextvars

from batchrun.output.layout import BATCH_LOG
from batchrun.runtime import logs
from batchrun.runtime.logs import MAX_OPEN_FILES, logging_to, piece_of, silence, take_library_messages


@pytest.fixture(autouse=True)
def unconfigured(blockbuster: BlockBuster) -> Iterator[None]:
    """Reset the logging configuration after each test."""
    yield
    structlog.reset_defaults()


def lines(file: Path) -> list[Any]:
    """Return the events of a log without their times."""
    read = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    for line in read:
        assert line.pop("timestamp").endswith("Z")
    return read


def test_events_become_lines_of_json(tmp_path: Path) -> None:
    """Each has level, time and the bound context."""
    log = structlog.get_logger()
    with logging_to(tmp_path / BATCH_LOG), bound_contextvars(job_key="k"):
        log.info("job_settled", outcome="failed", line=3)
        log.warning("start_in_doubt", mark="m", path=tmp_path)
    assert lines(tmp_path / BATCH_LOG) == [
        {"event": "job_settled", "level": "info", "job_key": "k", "outcome": "failed", "line": 3},
        {"event": "start_in_doubt", "level": "warning", "job_key": "k", "mark": "m", "path": str(tmp_path)},
    ]


@pytest.mark.parametrize(("level", "events"), [("info", ["b", "c"]), ("debug", ["a", "b", "c"]), ("warning", ["c"])])
def test_events_below_the_level_are_left_out(tmp_path: Path, level: str, events: list[str]) -> None:
    """Debug events are written only if that level is asked for."""
    log = structlog.get_logger()
    with logging_to(tmp_path / BATCH_LOG, level=level):
        log.debug("a")
        log.info("b")
        log.warning("c")
    assert [line["event"] for line in lines(tmp_path / BATCH_LOG)] == events


def test_a_log_is_continued_and_made_with_its_first_line(tmp_path: Path) -> None:
    """A command without events leaves no file; a second command appends."""
    with logging_to(tmp_path / BATCH_LOG):
        pass
    assert not (tmp_path / BATCH_LOG).exists()
    for n in range(2):
        with logging_to(tmp_path / BATCH_LOG):
            structlog.get_logger().info("begun", n=n)
    assert [line["n"] for line in lines(tmp_path / BATCH_LOG)] == [0, 1]


def test_a_log_that_cannot_be_written_costs_log_lines_only(tmp_path: Path) -> None:
    """The batch goes on without it."""
    with logging_to(tmp_path / "missing" / BATCH_LOG):
        structlog.get_logger().info("begun")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_json_cannot_hold_is_written_as_text(tmp_path: Path) -> None:
    """No event can break the code that logs it."""
    with logging_to(tmp_path / BATCH_LOG):
        structlog.get_logger().info("date_unreadable", date="\udcff")
        structlog.get_logger().info("large", n=2**70)
    assert [line["event"] for line in lines(tmp_path / BATCH_LOG)] == ["date_unreadable", "large"]


def test_lines_about_a_batch_go_to_its_file(tmp_path: Path) -> None:
    """If that file can be written; all other lines go to the common file."""
    (tmp_path / "a").mkdir()
    files = {"a": tmp_path / "a" / BATCH_LOG, "gone": tmp_path / "gone" / BATCH_LOG}
    log = structlog.get_logger()
    with logging_to(tmp_path / "worker.log", file_of=files.get):
        log.info("worker_said")
        with bound_contextvars(batch="a"):
            log.info("job_settled", n=1)
        for batch in ("gone", "unknown", 3):
            log.info("batch_taken", batch=batch)
        log.info("job_settled", batch="a", n=2)
    assert [(line["batch"], line["n"]) for line in lines(files["a"])] == [("a", 1), ("a", 2)]
    others = [line.get("batch") for line in lines(tmp_path / "worker.log")]
    assert sorted(others, key=str) == [3, None, "gone", "unknown"]
    assert not (tmp_path / "gone").exists()


def test_a_log_that_was_moved_away_is_opened_again(tmp_path: Path) -> None:
    """As log rotation does; no line is lost, and none is written twice."""
    file, moved = tmp_path / BATCH_LOG, tmp_path / f"{BATCH_LOG}.1"
    log = structlog.get_logger()
    with logging_to(file):
        log.info("said", n=1)
        _wait_for_line(file)
        file.rename(moved)
        log.info("said", n=2)
    assert [[line["n"] for line in lines(each)] for each in (moved, file)] == [[1], [2]]


def _wait_for_line(file: Path) -> None:
    while not file.exists() or not file.read_bytes().endswith(b"\n"):
        pass


def test_a_log_whose_directory_was_away_for_a_while_is_continued(tmp_path: Path) -> None:
    """Lines go to the common file meanwhile; those of other batches are written in any case."""
    directory, common = tmp_path / "a", tmp_path / "worker.log"
    directory.mkdir()
    log = structlog.get_logger()
    with logging_to(common, file_of=lambda _: directory / BATCH_LOG):
        log.info("said", batch="a", n=0)
        _wait_for_line(directory / BATCH_LOG)
        directory.rename(tmp_path / "away")
        log.info("said", batch="a", n=1)
        _wait_for_line(common)
        (tmp_path / "away").rename(directory)
        log.info("said", batch="a", n=2)
    assert [[line["n"] for line in lines(each)] for each in (directory / BATCH_LOG, common)] == [[0, 2], [1]]


def test_few_files_are_open_however_many_batches_there_are(tmp_path: Path) -> None:
    """Each line goes to its file, even if that was closed in between."""
    batches = [f"b{n}" for n in range(3 * MAX_OPEN_FILES)]
    log = structlog.get_logger()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with logging_to(tmp_path / "worker.log", file_of=lambda batch: tmp_path / f"{batch}.log"):
        for turn in range(2):
            for batch in batches:
                log.info("said", batch=batch, turn=turn)
        while not (tmp_path / f"{batches[-1]}.log").exists():
            pass
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= MAX_OPEN_FILES + 2
    assert all([line["turn"] for line in lines(tmp_path / f"{batch}.log")] == [0, 1] for batch in batches)


def test_silence_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither to stdout nor to stderr."""
    silence()
    structlog.get_logger().error("bad", a=1)
    assert capsys.readouterr() == ("", "")


def test_a_full_log_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces of each file hold its last lines, none twice and none cut."""
    monkeypatch.setattr(logs, "ROTATES_AT_BYTES", 1000)
    file, of_batch = tmp_path / "worker.log", tmp_path / BATCH_LOG
    log = structlog.get_logger()
    for n in range(100):
        with logging_to(file, file_of=lambda _: of_batch):
            log.info("sampled", n=n, padding="x" * 50)
            log.info("job_settled", batch="b", n=n, padding="x" * 50)
    pieces = {each: [piece_of(each, n) for n in range(logs.KEPT_PIECES, -1, -1)] for each in (file, of_batch)}
    assert sorted(tmp_path.iterdir()) == sorted(piece for each in pieces.values() for piece in each)
    for each in pieces.values():
        kept = [line["n"] for piece in each for line in lines(piece)]
        assert kept == list(range(kept[0], 100))
        assert len(kept) >= 4 * 6


def test_what_libraries_log_goes_into_the_log_and_never_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A stderr that nobody reads stops whoever writes to it; without a log, the messages are dropped."""
    library = logging.getLogger("an.import")
    with _only_own_handlers():
        take_library_messages()
        take_library_messages()
        library.warning("nobody has a log yet")
        with logging_to(tmp_path / BATCH_LOG):
            library.info("unwanted")
            library.warning("odd: %s", "x" * 10_000)
            library.error("wrong arguments: %d", "x")
            library.error("no answer", exc_info=OSError("http://me:secret@h/traces?key=secret"))
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("leap second", stacklevel=1)
    *said, failed, warned = lines(tmp_path / BATCH_LOG)
    assert failed.pop("exception").endswith("OSError: http://***h/traces?***\n")
    assert (warned["library"], "UserWarning: leap second" in warned["message"]) == ("py.warnings", True)
    assert said == [
        {"event": "library_said", "level": "warning", "library": "an.import", "message": "odd: " + "x" * 1995},
        {"event": "library_said", "level": "error", "library": "an.import", "message": "wrong arguments: %d"},
    ]
    assert capfd.readouterr() == ("", "")


@contextmanager
def _only_own_handlers() -> Iterator[None]:
    """Take away those of pytest for a while."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = before
        logging.captureWarnings(False)
