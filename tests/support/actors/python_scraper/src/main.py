"""Scrape titles from pages, in the manner of the official Python template with a request queue."""

from typing import Any
from urllib.parse import urljoin, urlsplit

from apify import Actor, Event, Request
from impit import AsyncClient, HTTPError
from selectolax.lexbor import LexborHTMLParser


async def main() -> None:
    """Take pages from the queue, push what they hold, enqueue their links down to a depth."""
    async with Actor:
        actor_input = await Actor.get_input() or {}
        start_urls = actor_input.get("start_urls", [])
        max_depth = actor_input.get("max_depth", 1)
        state: Any = await Actor.use_state(default_value={"pages": 0})

        async def on_event(data: Any) -> None:
            Actor.log.info(f"Told of an event: {data}")

        Actor.on(Event.PERSIST_STATE, on_event)
        Actor.on(Event.ABORTING, on_event)

        request_queue = await Actor.open_request_queue()
        for start_url in start_urls:
            url = start_url.get("url")
            Actor.log.info(f"Enqueuing {url} ...")
            new_request = Request.from_url(url, user_data={"depth": 0})
            await request_queue.add_request(new_request)

        async with AsyncClient() as client:
            while request := await request_queue.fetch_next_request():
                await scrape(client, request_queue, request, max_depth)
                state["pages"] += 1
                await Actor.set_status_message(f"Scraped {state['pages']} pages")

        await Actor.set_value("OUTPUT", {"pages": state["pages"]})
        await Actor.set_status_message(f"Scraped {state['pages']} pages in all", is_terminal=True)


async def scrape(client: AsyncClient, request_queue: Any, request: Request, max_depth: int) -> None:
    """Scrape one page; a page that cannot be had is logged and done with."""
    url, depth = request.url, int(str(request.user_data["depth"]))
    Actor.log.info(f"Scraping {url} (depth={depth}) ...")
    try:
        response = await client.get(url)
        page = LexborHTMLParser(response.text)
        if depth < max_depth:
            await enqueue_links(request_queue, page, url, depth)
        title = page.css_first("title")
        data = {"url": url, "depth": depth, "title": title.text() if title else None}
        await Actor.push_data(data)
    except HTTPError:
        Actor.log.exception(f"Cannot extract data from {url}.")
    finally:
        await request_queue.mark_request_as_handled(request)


async def enqueue_links(request_queue: Any, page: LexborHTMLParser, url: str, depth: int) -> None:
    """Enqueue the first links of a page that lead to the same site."""
    links = [urljoin(url, link.attributes.get("href") or "") for link in page.css("a")]
    near = [link.partition("#")[0] for link in links if urlsplit(link).netloc == urlsplit(url).netloc]
    for link in [link for link in dict.fromkeys(near) if link != url][:4]:
        Actor.log.info(f"Enqueuing {link} ...")
        await request_queue.add_request(Request.from_url(link, user_data={"depth": depth + 1}))
