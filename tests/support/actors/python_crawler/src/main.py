"""Crawl with Crawlee, in the manner of the official Python template."""

from urllib.parse import urljoin

from apify import Actor
from crawlee.crawlers import HttpCrawler, HttpCrawlingContext
from selectolax.lexbor import LexborHTMLParser


async def main() -> None:
    """Crawl from the start URLs, push the title of each page."""
    async with Actor:
        actor_input = await Actor.get_input() or {}
        start_urls = [url.get("url") for url in actor_input.get("start_urls", [])]
        if not start_urls:
            Actor.log.info("No start URLs specified in Actor input, exiting...")
            await Actor.exit()

        crawler = HttpCrawler(max_requests_per_crawl=actor_input.get("max_requests", 10))

        @crawler.router.default_handler
        async def request_handler(context: HttpCrawlingContext) -> None:
            url = context.request.url
            Actor.log.info(f"Scraping {url}...")
            page = LexborHTMLParser(await context.http_response.read())
            title = page.css_first("title")
            await context.push_data({"url": url, "title": title.text() if title else None})
            links = [urljoin(url, link.attributes.get("href") or "") for link in page.css("a[href*='/demo/']")]
            await context.add_requests(links[:5])

        await crawler.run(start_urls)
