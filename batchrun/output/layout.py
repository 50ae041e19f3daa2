"""The names of what a batch leaves in its output directory; each is spelled here and nowhere else."""

RECORDS = "records.jsonl"
ITEMS = "items.jsonl"
BAD_LINES = "bad_lines.jsonl"
LEDGER = "ledger.sqlite3"
#: Held by the process that works in the directory.
LOCK = "lock"
BATCH_LOG = "batch.log"
REPORT = "report.html"
#: A directory with the ends of Runs' logs, a file each.
RUN_LOGS = "logs"
#: The directory in which an embedded server keeps its state.
SERVER_STATE = "server"
