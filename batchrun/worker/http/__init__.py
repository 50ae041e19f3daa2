"""The worker over HTTP: an API for programs, a page for people."""

from batchrun.worker.http.app import open_http

__all__ = ["open_http"]
