"""The server's storage: one SQLite file, and a module of functions for each table."""
