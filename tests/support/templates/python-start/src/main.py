"""Push the headings of one page."""

from apify import Actor
from bs4 import BeautifulSoup
from httpx import AsyncClient


async def main() -> None:
    async with Actor:
        actor_input = await Actor.get_input()
        url = actor_input.get("url")
        if not url:
            raise ValueError('Missing "url" attribute in input!')
        async with AsyncClient() as client:
            response = await client.get(url, follow_redirects=True)
        soup = BeautifulSoup(response.content, "lxml")
        headings = []
        for heading in soup.find_all(["h1", "h2", "h3", "h4", "h5", "h6"]):
            headings.append({"level": heading.name, "text": heading.text})
            Actor.log.info(f"Extracted heading: {heading.text}")
        await Actor.push_data(headings)
