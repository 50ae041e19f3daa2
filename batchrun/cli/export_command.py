"""`batchrun export BATCH FILE`: the records of a batch, or its items, in one file for other programs."""

from collections.abc import Iterator
from pathlib import Path

from batchrun.cli.overwrite_check import refuse_file_of_batch
from batchrun.cli.terminal import say
from batchrun.errors import ConfigError, LedgerError
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.output.atomic_write import replace_file
from batchrun.output.layout import ITEMS, RECORDS
from batchrun.output.sink import explaining
from batchrun.report.output_files.export_file import TABLE_FORMATS, table_pieces
from batchrun.runtime.private_files import private_opener
from batchrun.runtime.shell_command import shell_command

#: The formats, by the end of the file's name.
_FORMATS = ("jsonl", *TABLE_FORMATS)
_PIECE_BYTES = 1 << 20


def export_lines(directory: Path, file: Path, *, items: bool) -> None:
    """Write what is committed of a batch's records, or of its items, into a file of the format that its name says.

    Raises:
        ConfigError: the file's name says no format, the batch has or reads it, or it writes no items here.
        LedgerError: there is no ledger, or it is damaged.
        OutputError: the file cannot be written.
    """
    table_format = file.suffix.removeprefix(".").lower()
    if table_format not in _FORMATS:
        raise ConfigError(f"{file}: the end of its name says the format: .{', .'.join(_FORMATS)}")
    refuse_file_of_batch(directory, file)
    name = ITEMS if items else RECORDS
    with open_for_reading(directory) as ledger:
        end = ledger.output_lengths().get(name, 0)
    if items and not end:
        raise ConfigError(f"{directory}: has no items ([output] items says where they are kept); leave out --items")
    source = directory / name
    if end > (source.stat().st_size if source.exists() else 0):
        repair = shell_command("batchrun", "repair", directory)
        raise LedgerError(f"{source}: lacks lines that were written; `{repair}` writes them again")
    is_table = table_format in TABLE_FORMATS
    pieces = table_pieces(source, end, table_format, is_exact=items) if is_table else _lines(source, end)
    replace_file(file, pieces, is_private=False)
    say(f"export   {file}")


def _lines(file: Path, end: int) -> Iterator[bytes]:
    if not end:
        return
    with explaining(file), open(file, "rb", opener=private_opener) as opened:
        while end > 0 and (piece := opened.read(min(end, _PIECE_BYTES))):
            end -= len(piece)
            yield piece
