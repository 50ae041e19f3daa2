"""Webhooks: definitions, the events that trigger them, and delivery."""
