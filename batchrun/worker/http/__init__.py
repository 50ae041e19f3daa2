"""The worker's HTTP API and live page."""

from batchrun.worker.http.http_app import open_http
from batchrun.worker.http.page_access import PageAccess

__all__ = ["PageAccess", "open_http"]
