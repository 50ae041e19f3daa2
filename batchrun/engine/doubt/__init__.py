"""Starts whose answer was lost."""
