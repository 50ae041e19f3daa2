"""What can be started: Actors, their builds and input schemas, tasks, and the options of a start."""
