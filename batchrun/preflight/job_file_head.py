"""The head of the job file, read before the first start: bad lines and refused inputs there stop a new batch."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun.config import Config
from batchrun.config.job_format_builder import job_format
from batchrun.errors import JobFileError, SeveralLines
from batchrun.jobs import JobFile
from batchrun.ledger.sqlite.reader import begun_identity, is_begun
from batchrun.model import BadLine, Job
from batchrun.preflight.line_problems import LineProblems
from batchrun.runtime.long_reads import read_in_thread
from batchrun.words.number_words import counted

if TYPE_CHECKING:
    from batchrun.preflight.input_checks import HeadCheck

#: Bad lines that an error message shows.
MAX_BAD_LINES_SHOWN = 20
#: Problems that an error message shows.
MAX_PROBLEMS_SHOWN = 20


async def check_before_start(config: Config) -> Config:
    """Check the head of the job file; return the configuration with the dialect of a CSV file.

    Raises:
        JobFileError: the file cannot be read, or in more than one way; or its head has bad lines, which stop a batch
            that is not begun.
        ConfigError: its template, key or matrix cannot be used.
    """
    return await read_in_thread(_check_head, config)


def settle_dialect(config: Config) -> Config:
    """Return the configuration with the delimiter, the quote and the trimming of its CSV file.

    What it leaves open is as the batch was begun, so that lines which are appended later do not change it; before that,
    it is found in the head of the file.

    Raises:
        JobFileError: the file cannot be read, or in more than one way.
    """
    wanted = job_format(config, {})
    if wanted.is_stdin or wanted.kind not in ("csv", "tsv"):
        return config
    given = {name: getattr(config.jobs, name) for name in ("delimiter", "quote", "trim")}
    begun = begun_identity(config.out_dir)
    if begun is not None:
        # Versions that noted no quote decided by the header, and trimmed no cells.
        early = {"delimiter": None, "quote": '"', "trim": False}
        given = {
            name: begun.get(f"jobs.{name}", early[name]) if value is None else value for name, value in given.items()
        }
        wanted = replace(wanted, **given | {"trim": given["trim"] is not False}, asks_in_doubt="jobs.quote" in begun)
    with JobFile(replace(wanted, key=None, group=None, meta=(), template=None)) as job_file:
        assert job_file.dialect is not None
        delimiter, quote, trim, _ = job_file.dialect
    settled = {"delimiter": delimiter, "quote": quote or "none", "trim": trim}
    return config.model_copy(update={"jobs": config.jobs.model_copy(update=settled)})


def _check_head(config: Config) -> Config:
    config = settle_dialect(config)
    if job_format(config, {}).is_stdin:
        return config  # its head is checked where it is read, once
    with JobFile(job_format(config, {})) as job_file:
        bad_lines = job_file.check_head()
    if not is_begun(config.out_dir):
        refuse_bad_lines(bad_lines, config)
    return config


def refuse_bad_lines(bad_lines: list[BadLine], config: Config) -> None:
    """Stop a new batch at whose head lines are no jobs, unless they are to become records.

    Raises:
        JobFileError: there are such lines; nothing was started.
    """
    if bad_lines and config.jobs.on_bad_line == "stop":
        raise JobFileError(_bad_lines_text(bad_lines), file=job_format(config, {}).name)


def look_at_head(config: Config, look_at: Callable[[Job], None]) -> bool:
    """Call `look_at` with each good job at the head of the job file; return False if the file cannot be read twice.

    Raises:
        JobFileError: the file cannot be read.
    """
    if job_format(config, {}).is_stdin:
        return False
    with JobFile(job_format(config, {})) as job_file:
        job_file.check_head(look_at)
    return True


def refuse_head(head: "HeadCheck", config: Config) -> None:
    """Stop a batch at whose head inputs would be refused, or would cost money and do nothing new.

    Raises:
        JobFileError: there are such lines; nothing was started.
    """
    if head.problems:
        raise JobFileError(SeveralLines(_problem_lines(head.problems)), file=config.jobs.file)
    if head.futile and head.check.stops_futile:
        raise JobFileError(SeveralLines(_futile_lines(head, config)), file=config.jobs.file)


def _bad_lines_text(bad_lines: list[BadLine]) -> SeveralLines:
    shown = [f"  line {bad.position.line}: {bad.reason}" for bad in bad_lines[:MAX_BAD_LINES_SHOWN]]
    hidden = len(bad_lines) - len(shown)
    more = [f"  … and {hidden} more"] if hidden else []
    count = counted(len(bad_lines), "bad line")
    advice = 'Nothing was started. Fix them, or set jobs.on_bad_line = "record" to run the other lines'
    return SeveralLines([f"{count}:", *shown, *more, advice])


def _problem_lines(problems: LineProblems) -> Iterator[str]:
    yield f"{_count(problems)} at its head would be refused:"
    yield from shown_problems(problems)
    yield (
        "Nothing was started. Fix them (`batchrun plan` checks the whole file), or set jobs.check_inputs = false to"
        " run the other lines"
    )


def _futile_lines(head: "HeadCheck", config: Config) -> Iterator[str]:
    yield f"{_count(head.futile)} at its head would buy nothing new:"
    yield from shown_problems(head.futile)
    is_csv = job_format(config, {}).kind in ("csv", "tsv")
    if is_csv and config.jobs.template is None and (example := head.check.template_example()):
        yield f"A table [jobs.template] says which column becomes which property, like: {example}"
    yield (
        "Nothing was started. Fix them (`batchrun plan` checks the whole file), or set"
        ' jobs.unknown_properties = "allow" to run them all the same'
    )


def _count(problems: LineProblems) -> str:
    return counted(problems.lines, "line")


def shown_problems(problems: LineProblems) -> list[str]:
    """Return the problems with the most lines, one a line, and how many there are besides."""
    found = list(problems)
    hidden = len(found) - MAX_PROBLEMS_SHOWN
    more = [f"  … and {counted(hidden, 'other problem')}"] if hidden > 0 else []
    return [*(f"  {problem}" for problem in found[:MAX_PROBLEMS_SHOWN]), *more]
