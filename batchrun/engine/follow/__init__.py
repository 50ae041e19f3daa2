"""Following live Runs to their end: polls, the sweep, deadlines."""
