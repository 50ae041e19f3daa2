"""Notifications for people who do not watch a batch: what they hold, and how they are delivered."""
