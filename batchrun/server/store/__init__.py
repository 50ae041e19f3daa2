"""The server's storage: one SQLite file, and a module of functions for each of its tables."""
