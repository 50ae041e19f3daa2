"""The worker over HTTP."""

from batchrun.worker.http.http_app import open_http

__all__ = ["open_http"]
