"""What a batch leaves behind: its files, appended to, synced and cut back."""
