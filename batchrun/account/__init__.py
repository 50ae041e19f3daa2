"""The account that batches run in: connecting to it, its limits, its tasks."""
