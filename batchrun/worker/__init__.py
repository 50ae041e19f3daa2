"""Long-lived: takes batches as they come and carries them out side by side, under one set of limits."""
