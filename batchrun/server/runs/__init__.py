"""The server's Runs from start to end, as processes or as coroutines."""
