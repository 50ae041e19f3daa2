"""A bundled Actor. The server runs it as a process and never imports it."""
