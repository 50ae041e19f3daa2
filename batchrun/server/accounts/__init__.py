"""The server's accounts: who calls, and the limits of each account."""
