"""Runs of this server from their start to their end, as processes or as coroutines."""
