"""Ends the service workers that another program has left in a browser at an address of this process.

Such a worker answers in place of the process whose port its program once had: it can show a page of its own, and read
what is typed there. Browsers look for a new version of it when they open the address; the new version ends it.
"""

from collections.abc import Mapping

from aiohttp import web

_SCRIPT = """\
addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil((async () => {
  await registration.unregister();
  for (const each of await clients.matchAll({ includeUncontrolled: true })) await each.navigate(each.url);
})()));
"""


def is_for_service_worker(headers: Mapping[str, str]) -> bool:
    """Whether a browser asks for the script of a service worker, at whatever path; no page of ours has one."""
    return headers.get("Service-Worker") == "script"


def end_service_worker() -> web.Response:
    """Return a script that ends the service worker, and loads the pages again that it has answered for."""
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'",
        # Without it, browsers refuse the new version of a script in a folder that answers for paths above it.
        "Service-Worker-Allowed": "/",
    }
    return web.Response(text=_SCRIPT, content_type="text/javascript", headers=headers)
