"""A batch: opened, carried out, closed."""
