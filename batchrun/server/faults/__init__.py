"""Injected faults: their configuration, and which of them strike a request."""
