"""One batch: opened, run, closed."""
