"""The worker: a long-lived process that runs batches side by side, under one set of limits."""
