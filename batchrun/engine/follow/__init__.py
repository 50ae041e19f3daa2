"""Live Runs to their end: polls, the sweep, deadlines."""
