"""Push the title of each page and follow its links."""

from collections.abc import Generator
from typing import Any
from urllib.parse import urljoin

from scrapy import Request, Spider
from scrapy.responsetypes import Response

from ..items import TitleItem


class TitleSpider(Spider):
    name = "title_spider"

    def __init__(self, start_urls: list[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_urls = start_urls

    def parse(self, response: Response) -> Generator[TitleItem | Request, None, None]:
        self.logger.info("TitleSpider is parsing %s...", response)
        yield TitleItem(url=response.url, title=response.css("title::text").extract_first())
        for link_href in response.css("a::attr(href)"):
            link_url = urljoin(response.url, link_href.get())
            if link_url.startswith(("http://", "https://")):
                yield Request(link_url)
