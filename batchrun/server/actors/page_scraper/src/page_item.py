"""Makes the item that describes a page, of its HTML."""

from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from selectolax.lexbor import LexborHTMLParser

from .page_fetch import Fetched


def read_page(page: Fetched, requested_url: str, max_links: int) -> tuple[dict[str, Any], list[str]]:
    """Return the item that describes a page, and the page's links."""
    item: dict[str, Any] = {
        "url": requested_url,
        "loadedUrl": page.url,
        "status": page.status,
        "contentType": page.content_type,
        "bytes": len(page.body),
        "isCut": page.is_cut,
        "durationMs": round(page.duration_s * 1000, 1),
    }
    if "html" not in page.content_type:
        return item | {"title": None, "headings": [], "links": [], "textLength": None}, []
    tree = LexborHTMLParser(page.body)
    title = tree.css_first("title")
    links = _links(tree, page.url)
    headings = [
        {"level": int(node.tag[1]), "text": _text(node)} for node in tree.css("h1, h2, h3, h4, h5, h6") if node.tag
    ]
    for node in tree.css("script, style, noscript, template"):
        node.decompose()
    body_text = " ".join((tree.body.text(separator=" ") if tree.body else "").split())
    item |= {
        "title": _text(title) if title else None,
        "headings": headings,
        "links": links[:max_links],
        "linkCount": len(links),
        "textLength": len(body_text),
    }
    return item, links


def _text(node: Any) -> str:
    return " ".join(node.text(separator=" ").split())


def _links(tree: LexborHTMLParser, base_url: str) -> list[str]:
    base = tree.css_first("base[href]")
    base_url = urljoin(base_url, base.attributes.get("href") or "") if base else base_url
    found: dict[str, None] = {}
    for node in tree.css("a[href]"):
        try:
            url = urldefrag(urljoin(base_url, (node.attributes.get("href") or "").strip())).url
        except ValueError:
            continue  # an href that is not a URL is skipped
        if urlsplit(url).scheme in ("http", "https"):
            found[url] = None
    return list(found)
