"""Answers that are not the API's: which ones, and what each is, in words.

Proxies, firewalls, login pages and gateways answer in the API's place, with any status, 200 among them. Such an answer
says nothing about a job, a Run or the token.
"""

import re
from urllib.parse import urlsplit

from batchrun.apify import wire
from batchrun.apify.connections import Answer
from batchrun.apify.mended_json import parse_json

#: Characters of a page's title, or of a text, that a message shows.
_SHOWN_CHARS = 80
#: Bytes of a body that are searched for its title.
_SEARCHED_BYTES = 4096
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


def is_foreign(answer: Answer) -> bool:
    """Whether a 2xx answer that could not be read is not the API's: empty, a page, or another server's JSON."""
    body = answer.body.lstrip()
    if not body or _is_page(answer):
        return True
    if len(body) > wire.MAX_ERROR_BYTES:
        return False
    try:
        envelope = parse_json(body)
    except ValueError:
        return False  # an Actor's data, which may be anything
    return isinstance(envelope, dict) and "data" not in envelope


def in_words(answer: Answer, redirected_to: str = "") -> str:
    """Say what an answer is that is not the API's; `redirected_to` is "" without a redirect."""
    if redirected_to:
        return f"{_redirect(redirected_to)}, which answers with status {answer.status}"
    if 300 <= answer.status < 400 and (location := answer.headers.get("Location")):
        return f"status {answer.status}: {_redirect(_origin_of(location))}"
    body = answer.body.lstrip()
    if not body:
        what = "an empty answer"
    elif _is_page(answer):
        import html  # noqa: PLC0415 - few commands meet a page

        title = _TITLE.search(body[:_SEARCHED_BYTES].decode("utf-8", "replace"))
        shown = _shown(html.unescape(title[1])) if title is not None else ""
        what = f'an HTML page "{shown}"' if shown else "an HTML page"
    elif body[:1] in b"{[":
        what = "JSON of another server"
    else:
        what = f'a text "{_shown(body[:_SEARCHED_BYTES].decode("utf-8", "replace"))}"'
    return f"status {answer.status} with {what}, which is not from the API"


def _redirect(origin: str) -> str:
    return f"a redirect to {origin} (if the API is there, set api.base_url to it)"


def _origin_of(location: str) -> str:
    """Return scheme and host of a `Location`; its path and query may hold secrets."""
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "another page of the same host"


def _is_page(answer: Answer) -> bool:
    return answer.body.lstrip()[:1] == b"<" or answer.headers.get("Content-Type", "").startswith("text/html")


def _shown(text: str) -> str:
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return plain if len(plain) <= _SHOWN_CHARS else f"{plain[:_SHOWN_CHARS]}…"
