"""The names of the files and folders in a batch's output directory, spelled here and nowhere else."""

from pathlib import Path

RECORDS = "records.jsonl"
ITEMS = "items.jsonl"
BAD_LINES = "bad_lines.jsonl"
#: The lines that repeat the job of another line.
DUPLICATES = "duplicates.jsonl"
#: The costs of all Runs that have ended, as they are known now.
COSTS = "costs.jsonl"
LEDGER = "ledger.sqlite3"
#: The starts that the ledger has noted: shows whether the ledger is whole.
STARTS = "starts.jsonl"
#: Locked by the process that works in the directory; holds its pid.
LOCK = "lock"
BATCH_LOG = "batch.log"
REPORT = "report.html"
#: Folder of Runs' log tails, a file each.
RUN_LOGS = "logs"
#: Folder of an embedded server's state.
SERVER_STATE = "server"
#: The job file, where a shared log carries it to machines that do not have it.
JOB_FILE = "job-file"
#: The configuration that a process on this machine was given, where a shared log has one too: others can write to that.
OWN_CONFIG = "config.json"
#: Folder of notifications that are not delivered yet.
OUTBOX = "outbox"

#: All of the above; SQLite's and `repair`'s files beside the ledger begin with its name.
NAMES = (
    RECORDS,
    ITEMS,
    BAD_LINES,
    DUPLICATES,
    COSTS,
    LEDGER,
    STARTS,
    LOCK,
    BATCH_LOG,
    REPORT,
    RUN_LOGS,
    SERVER_STATE,
    OWN_CONFIG,
    JOB_FILE,
    OUTBOX,
)

#: The files that are written whole, over what is there.
REPLACED = (DUPLICATES, COSTS, REPORT, OWN_CONFIG)

#: The files of a shared log that a machine follows.
SHARED = (RECORDS, ITEMS, BAD_LINES, JOB_FILE)


def is_own_name(name: str) -> bool:
    """True if a batch gives this name to something in its directory."""
    return name in NAMES or name.startswith(LEDGER)


def is_own_file(directory: Path, file: Path) -> bool:
    """True if a batch writes a file of this path into its directory, whether it is there or not."""
    try:
        first = (file.parent.resolve() / file.name).relative_to(directory.resolve()).parts[0]
    except (ValueError, IndexError):
        return False
    return is_own_name(first)
