"""Measurements, bounded and on loopback only: `python -m benchmarks NAME`."""
