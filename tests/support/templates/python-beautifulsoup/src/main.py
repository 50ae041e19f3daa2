"""Follow links from the start URLs through a request queue; push the title of each page."""

from urllib.parse import urljoin

from apify import Actor, Request
from bs4 import BeautifulSoup
from httpx import AsyncClient


async def main() -> None:
    async with Actor:
        actor_input = await Actor.get_input() or {}
        start_urls, max_depth = actor_input.get("startUrls", []), actor_input.get("maxDepth", 1)
        if not start_urls:
            Actor.log.info("No start URLs specified in actor input, exiting...")
            await Actor.exit()
        proxies = await Actor.create_proxy_configuration(actor_proxy_input=actor_input.get("proxyConfiguration"))
        request_queue = await Actor.open_request_queue()
        for start_url in start_urls:
            new_request = Request.from_url(start_url["url"], user_data={"depth": 0})
            await request_queue.add_request(new_request)
        proxy_url = await proxies.new_url() if proxies else None
        async with AsyncClient(proxy=proxy_url) as client:
            while request := await request_queue.fetch_next_request():
                url, depth = request.url, int(request.user_data["depth"])
                try:
                    response = await client.get(url, follow_redirects=True)
                    soup = BeautifulSoup(response.content, "lxml")
                    if depth < max_depth:
                        for link in soup.find_all("a"):
                            link_url = urljoin(url, link.get("href") or "")
                            if link_url.startswith(("http://", "https://")):
                                new_request = Request.from_url(link_url, user_data={"depth": depth + 1})
                                await request_queue.add_request(new_request)
                    await Actor.push_data({"url": url, "title": soup.title.string if soup.title else None})
                except Exception:
                    Actor.log.exception(f"Cannot extract data from {url}.")
                finally:
                    await request_queue.mark_request_as_handled(request)
