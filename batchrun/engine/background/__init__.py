"""Work beside the jobs: final costs, logs, aborts."""
