"""Arithmetic that never waits: no clock, no await, no I/O; time comes in as a number of seconds."""
