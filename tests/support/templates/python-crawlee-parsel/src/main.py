"""Crawl from the start URLs with Crawlee; push the title of each page."""

from apify import Actor
from crawlee.crawlers import ParselCrawler, ParselCrawlingContext


async def main() -> None:
    async with Actor:
        actor_input = await Actor.get_input() or {}
        start_urls = [url.get("url") for url in actor_input.get("startUrls", [])]
        if not start_urls:
            Actor.log.info("No start URLs specified in Actor input, exiting...")
            await Actor.exit()
        proxies = await Actor.create_proxy_configuration(actor_proxy_input=actor_input.get("proxyConfiguration"))
        crawler = ParselCrawler(max_requests_per_crawl=10, proxy_configuration=proxies)

        @crawler.router.default_handler
        async def request_handler(context: ParselCrawlingContext) -> None:
            Actor.log.info(f"Scraping {context.request.url}...")
            title = context.selector.xpath("//title/text()").get()
            await context.push_data({"url": context.request.url, "title": title})
            await context.enqueue_links(strategy="same-domain")

        await crawler.run(start_urls)
