"""The worker's HTTP API and live page."""

from batchrun.worker.http.http_app import open_http

__all__ = ["open_http"]
