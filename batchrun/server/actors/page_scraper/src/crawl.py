"""The crawl: the order of pages, how many are fetched at once, and the end."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from batchrun.runtime.fast_dataclasses import dataclass

from .page_fetch import Fetched, FetchFailed, fetch
from .page_item import read_page


@dataclass(frozen=True)
class CrawlPlan:
    start_urls: tuple[str, ...]
    max_requests: int
    max_concurrency: int
    request_timeout_s: float
    delay_s: float
    max_links: int


def make_plan(given: dict[str, Any], base_url: str) -> CrawlPlan:
    """Parse the input. Relative start URLs are resolved by the platform's address."""
    urls = [entry["url"] if isinstance(entry, dict) else entry for entry in given["startUrls"]]
    return CrawlPlan(
        start_urls=tuple(dict.fromkeys(urldefrag(urljoin(base_url, url.strip())).url for url in urls)),
        max_requests=given.get("maxRequestsPerCrawl", 1),
        max_concurrency=given.get("maxConcurrency", 2),
        request_timeout_s=given.get("requestTimeoutSecs", 20),
        delay_s=given.get("delaySecs", 0),
        max_links=given.get("maxLinksPerPage", 200),
    )


class Crawl:
    """Fetches pages breadth first. Each thread takes the next URL until there is none.

    Args:
        plan: the parsed input.
        store: stores a page's item; called from several threads.
    """

    def __init__(self, plan: CrawlPlan, store: Callable[[dict[str, Any]], None]) -> None:
        self._plan, self._store = plan, store
        self._sites = {_site(url) for url in plan.start_urls}
        self._starts = set(plan.start_urls)
        self._waiting = deque(plan.start_urls[: plan.max_requests])
        self._seen = set(self._waiting)
        self._changed = threading.Condition()
        self._busy = 0
        self._error: BaseException | None = None
        self.fetched = 0
        #: The reasons why start pages could not be fetched.
        self.start_failures: list[str] = []

    def run(self) -> None:
        """Crawl to the end; raise the error of `store`, if there was one."""
        count = min(self._plan.max_concurrency, self._plan.max_requests)
        helpers = [threading.Thread(target=self._work, daemon=True) for _ in range(count - 1)]
        for helper in helpers:
            helper.start()
        self._work()
        for helper in helpers:
            helper.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (url := self._take()) is not None:
            try:
                self._visit(url)
            except BaseException as error:  # noqa: BLE001 - it is raised again where run() was called
                self._error = error
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()
            if self._plan.delay_s:
                time.sleep(self._plan.delay_s)

    def _take(self) -> str | None:
        with self._changed:
            while not self._waiting and self._busy and self._error is None:
                self._changed.wait()
            if self._error is not None or not self._waiting:
                return None
            self._busy += 1
            return self._waiting.popleft()

    def _visit(self, url: str) -> None:
        try:
            page = fetch(url, self._plan.request_timeout_s)
        except FetchFailed as failure:
            self._note_failure(url, str(failure))
            self._store({"url": url, "status": None, "title": None, "error": str(failure)})
            return
        if page.status >= 400:
            self._note_failure(url, f"{url} answered {page.status}")
        item, links = read_page(page, url, self._plan.max_links)
        self._follow(page, links)
        self._store(item)
        with self._changed:
            self.fetched += 1

    def _note_failure(self, url: str, reason: str) -> None:
        if url in self._starts:
            with self._changed:
                self.start_failures.append(reason)

    def _follow(self, page: Fetched, links: list[str]) -> None:
        if page.status >= 400 or _site(page.url) not in self._sites:
            return
        with self._changed:
            for url in links:
                if len(self._seen) >= self._plan.max_requests:
                    break
                if url not in self._seen and _site(url) in self._sites:
                    self._seen.add(url)
                    self._waiting.append(url)
            self._changed.notify_all()


def _site(url: str) -> str:
    return urlsplit(url).netloc.lower()
