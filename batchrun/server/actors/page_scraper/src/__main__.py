"""Scrape pages: one dataset item per page. Exit code 1 if a start page cannot be fetched."""

import sys
from typing import Any

from .crawl import Crawl, make_plan
from .run_api import RunApi


def main() -> int:
    """Carry out one Run; return its exit code."""
    api = RunApi()
    plan = make_plan(api.read_input(), api.base_url)

    def store(item: dict[str, Any]) -> None:
        print(f"{item['status'] or 'failed'} {item['url']}", flush=True)  # noqa: T201 - an Actor's output is its log
        api.push([item])

    crawl = Crawl(plan, store)
    crawl.run()
    if crawl.start_failures:
        api.set_status_message(f"Start page failed: {crawl.start_failures[0]}", is_terminal=True)
        return 1
    api.set_status_message(f"{crawl.fetched} page(s) scraped", is_terminal=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
