"""Commands on the output directory of a batch that no process runs: abort, resolve, repair."""
