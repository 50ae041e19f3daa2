"""The ledger: every intent before its effect, every result after it, in one SQLite file per batch."""
