"""The ledger: what a batch has done, and what it is about to do, noted before it does it."""
