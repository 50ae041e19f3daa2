"""A bundled Actor; run as a process of its own, never imported by the server."""
