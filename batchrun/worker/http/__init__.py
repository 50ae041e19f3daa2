"""The worker over HTTP."""

from batchrun.worker.http.app import open_http

__all__ = ["open_http"]
