"""The files of a batch: their names, lines, lock; appended to, synced and cut back."""
