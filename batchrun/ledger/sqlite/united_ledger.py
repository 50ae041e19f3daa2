"""One directory of the directories of a batch's parts: its ledger has all their rows, its output files all their lines.

It is for readers. United again, it has what the parts have by then: files only grow, so that who follows one stays
where he is. A job is in one part only, so that no two rows are the same.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from batchrun.errors import OutputError
from batchrun.ledger.facts import CONFIG, DUPLICATES, IDENTITY, JOB_COUNT, LOG_CLAIM, TRIPS, UNITED, WAIT
from batchrun.ledger.sqlite.connection import is_blank, open_connection
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.ledger.sqlite.restored_ledger import refuse_missing_ledger
from batchrun.ledger.sqlite.tables import LedgerTables, open_writable
from batchrun.output.layout import BAD_LINES, ITEMS, LEDGER, RECORDS
from batchrun.output.sink import Sink, explaining
from batchrun.runtime.private_files import private_opener

#: Bytes of an output file that are copied at a time.
_PIECE_BYTES = 8 << 20
#: Rows that are copied at a time.
_ROWS_AT_ONCE = 10_000
#: The tables of jobs, each with the column that names the job.
_TABLES = {"job": "id", "attempt": "job_id", "past_round": "job_id", "duplicate": "job_id"}
#: Facts of one part that are none of all of them.
_OWN_FACTS = frozenset({LOG_CLAIM.name, WAIT.name, UNITED.name})


class _UnitedTables(LedgerTables):
    """A ledger of all jobs that other ledgers have."""

    def remove_all(self) -> None:
        """Forget all jobs and facts."""
        for table in (*reversed(_TABLES), "batch"):
            self._db.execute(f"DELETE FROM {table}")

    def add(self, part: LedgerReader, number: int, count: int) -> None:
        """Add all jobs of one of `count` ledgers; by its number, from 0, their ids differ from those of the others."""
        for table, id_column in _TABLES.items():
            columns, rows = part.rows_of(table)
            at, names = columns.index(id_column), ", ".join(f'"{column}"' for column in columns)
            sql = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
            while some := list(islice(rows, _ROWS_AT_ONCE)):
                self._write_many(sql, [(*row[:at], row[at] * count + number, *row[at + 1 :]) for row in some])


def refuse_another_batch(directory: Path, parts: Collection[str]) -> None:
    """Refuse a directory whose ledger, of whatever version, has more than what parts had: it would be emptied.

    Raises:
        OutputError: It has, or there is none beside files that may be somebody's own.
        LedgerError: It is damaged, or missing beside files of a batch.
    """
    if is_blank(directory / LEDGER):
        refuse_missing_ledger(directory)
        return
    with open_connection(directory / LEDGER, mode="ro") as connection:
        ledger = LedgerReader(connection)
        united, has_facts = ledger.fact(UNITED), bool(ledger.all_facts())
    if united is None and ledger.is_empty and not has_facts:
        return  # a process was killed while it made the ledger
    if not (united and united.keys() <= set(parts)):
        raise OutputError(f"{directory}: holds another batch, which this one would replace; choose another directory")


def unite_directories(parts: Mapping[str, Path], directory: Path) -> None:
    """Write into a directory what the directories of all parts have.

    Args:
        parts: of those that have begun, by names that stay the same.
        directory: of the whole.

    Raises:
        LedgerError: A ledger is damaged.
        OutputError: The directory cannot be written.

    Check with `refuse_another_batch` before that the directory's ledger can be replaced.
    """
    with ExitStack() as stack:
        ledgers = {name: stack.enter_context(open_for_reading(part)) for name, part in parts.items()}
        whole = _UnitedTables(stack.enter_context(open_writable(directory)))  # readers have what there was meanwhile
        copied = {name: dict(lengths) for name, lengths in (whole.fact(UNITED) or {}).items()}
        known = whole.output_lengths()
        sinks = {file: Sink(directory / file, known.get(file)) for file in (RECORDS, ITEMS, BAD_LINES)}
        for sink in sinks.values():
            stack.callback(sink.close)
        with whole.transaction():  # so that what a process writes below until it is killed can be cut off
            whole.note_output_lengths({file: sink.length for file, sink in sinks.items()})
        with whole.transaction():
            whole.remove_all()
            for number, ledger in enumerate(ledgers.values()):
                whole.add(ledger, number, len(ledgers))
            for file, sink in sinks.items():
                for name, ledger in ledgers.items():
                    before, now = copied.setdefault(name, {}).get(file, 0), ledger.output_lengths().get(file, 0)
                    for piece in _pieces(parts[name] / file, before, now):
                        sink.write(piece)
                        sink.flush()
                    copied[name][file] = now
            whole.note_output_lengths({file: sink.length for file, sink in sinks.items()})
            _note_facts(whole, list(ledgers.values()))
            whole.note_fact(UNITED, copied)


def _pieces(file: Path, begin: int, end: int) -> Iterator[bytes]:
    if begin >= end:
        return
    with explaining(file), open(file, "rb", opener=private_opener) as opened:
        opened.seek(begin)
        while begin < end and (piece := opened.read(min(_PIECE_BYTES, end - begin))):
            begin += len(piece)
            yield piece


def _note_facts(whole: LedgerTables, ledgers: Sequence[LedgerReader]) -> None:
    for name, value in (ledgers[0].all_facts() if ledgers else {}).items():
        if name not in _OWN_FACTS:
            whole.note_json(name, value)
    counts = [ledger.fact(JOB_COUNT) for ledger in ledgers]
    known = [count for count in counts if count is not None]
    whole.note_fact(JOB_COUNT, sum(known) if len(known) == len(counts) else None)
    whole.note_fact(DUPLICATES, sum(ledger.fact(DUPLICATES) or 0 for ledger in ledgers))
    whole.note_fact(TRIPS, [trip for ledger in ledgers for trip in ledger.fact(TRIPS) or ()] or None)
    if (config := whole.fact(CONFIG)) is not None:
        whole.note_fact(CONFIG, {**config, "jobs": {**config.get("jobs", {}), "shard": None}})
    if (identity := whole.fact(IDENTITY)) is not None:
        whole.note_fact(IDENTITY, {**identity, "jobs.shard": None})
