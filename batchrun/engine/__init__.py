"""The engine: from a job to its record. It meets the outside through the protocols in `ports`."""
