"""The server's tables, one module each: ordinary functions over a connection, carried out by `database`."""
