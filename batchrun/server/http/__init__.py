"""Every request's way in and out, and the faults injected on the way."""
