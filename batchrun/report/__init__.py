"""Readers of the ledger: they look on, also beside a running batch, and change nothing.

Each of them raises LedgerError if there is no ledger, or it is damaged.
"""
