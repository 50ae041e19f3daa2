"""What goes on beside the jobs: final costs, logs, aborts."""
