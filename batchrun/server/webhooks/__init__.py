"""Webhooks: which there are, what sets them off, and their delivery."""
