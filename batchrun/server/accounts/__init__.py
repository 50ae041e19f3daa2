"""The server's accounts: who is asking, and how much each may have."""
