"""Sentences and numbers as people read them: the same on a terminal, on a page, and in a notification."""
