"""The HTTP entry of the server: each request's way in and out, and injected faults."""
