"""Injected faults: their configuration, and the decision which of them strike a request."""
