"""The output files that are derived from the ledger, written at a batch's end or on demand: one module per file."""
