"""Resolving starts whose answer was lost."""
