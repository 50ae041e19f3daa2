"""Readers of the ledger: they look on, also beside a running batch, and change nothing."""
