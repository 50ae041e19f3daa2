"""Run the spider with the Actor's queue, dataset and proxies."""

from apify import Actor
from apify.scrapy import apply_apify_settings
from scrapy.crawler import AsyncCrawlerRunner

from .spiders.title import TitleSpider


async def main() -> None:
    async with Actor:
        actor_input = await Actor.get_input() or {}
        start_urls = [url["url"] for url in actor_input.get("startUrls", [])]
        settings = apply_apify_settings(proxy_config=actor_input.get("proxyConfiguration"))
        runner = AsyncCrawlerRunner(settings)
        await runner.crawl(TitleSpider, start_urls=start_urls)
