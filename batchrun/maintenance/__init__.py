"""What can be done with an output directory while no process runs its batch: abort, resolve, repair."""
