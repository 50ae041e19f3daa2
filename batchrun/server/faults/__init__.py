"""Injected faults: the kinds and what each of them does, their file, and which of them strike a request."""
