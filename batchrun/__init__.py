"""Carry out a file of inputs as Apify task runs: bounded, durable, never started twice."""

__version__ = "0.1.0"
