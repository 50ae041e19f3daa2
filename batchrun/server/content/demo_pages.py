"""The demo site: this Python's standard library documentation, as real pages to scrape on any machine, offline.

`pydoc` renders the pages in one child process, since rendering imports the modules. Only modules of the list below are
served, and each is rendered once.
"""

import html
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from batchrun.server.error_answers import ErrorAnswer, route_missing

#: Modules that any Python from 3.11 on can import without side effects on any POSIX system.
DEMO_MODULES = (
    "abc", "argparse", "array", "ast", "asyncio", "atexit", "base64", "bdb", "binascii", "bisect", "builtins",
    "calendar", "cmath", "cmd", "code", "codecs", "codeop", "collections", "collections.abc", "colorsys",
    "compileall", "concurrent.futures", "configparser", "contextlib", "contextvars", "copy", "copyreg", "csv",
    "dataclasses", "datetime", "decimal", "difflib", "dis", "doctest", "email", "email.message", "email.parser",
    "enum", "errno", "faulthandler", "filecmp", "fileinput", "fnmatch", "fractions", "ftplib", "functools", "gc",
    "getopt", "getpass", "gettext", "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html", "html.parser",
    "http", "http.client", "http.cookies", "http.server", "imaplib", "importlib", "inspect", "io", "ipaddress",
    "itertools", "json", "json.decoder", "json.encoder", "keyword", "linecache", "locale", "logging",
    "logging.handlers", "mailbox", "marshal", "math", "mimetypes", "mmap", "multiprocessing", "netrc",
    "numbers", "operator", "optparse", "os", "os.path", "pathlib", "pdb", "pickle", "pickletools", "pkgutil",
    "platform", "plistlib", "poplib", "pprint", "profile", "pstats", "py_compile", "pyclbr", "queue", "quopri",
    "random", "re", "reprlib", "sched", "secrets", "select", "selectors", "shelve", "shlex", "shutil", "signal",
    "smtplib", "socket", "socketserver", "sqlite3", "ssl", "stat", "statistics", "string", "stringprep", "struct",
    "subprocess", "symtable", "sys", "sysconfig", "tabnanny", "tarfile", "tempfile", "textwrap", "threading",
    "time", "timeit", "token", "tokenize", "trace", "traceback", "tracemalloc", "types", "typing", "unicodedata",
    "unittest", "unittest.mock", "urllib.parse", "urllib.request", "uuid", "warnings", "wave", "weakref",
    "webbrowser", "wsgiref", "xml.dom.minidom", "xml.etree.ElementTree", "xmlrpc.client", "zipapp", "zipfile",
    "zipimport", "zlib", "zoneinfo",
)  # fmt: skip

_NAMES = frozenset(DEMO_MODULES)
#: Timeout for rendering one page, in seconds: a page takes well below one.
_RENDER_LIMIT_S = 30
#: Max bytes of a page. A larger length is a sign of a broken child.
_MAX_PAGE_BYTES = 32 * 1024 * 1024

#: The child process: for each line with a module's name, it writes the page's length on a line, then the page. Anybody
#: may read a page: it shows no path of this Python, which may be in its user's home, and no value of what it runs with.
_RENDERER = """
import os, pydoc, sys
class Names(pydoc.HTMLDoc):
    def docother(self, object, name=None, mod=None, *ignored):
        return "<strong>%s</strong>" % name
homes = {path for own in (sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.__file__))
         for path in (own, os.path.realpath(own))} - {"/", "/usr", "/usr/local"}
out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
for line in sys.stdin:
    name = line.strip()
    module = pydoc.locate(name)
    doc = Names() if name in ("os", "sys") else pydoc.html
    page = doc.page(pydoc.describe(module), doc.document(module, name))
    for home in sorted(homes, key=len, reverse=True):
        page = page.replace(home, "/usr")
    body = page.encode("utf-8", "replace")
    out.write(b"%d\\n" % len(body) + body)
    out.flush()
"""

_LOCAL_LINK = re.compile(r'href="([\w.]+)\.html(#[^"]*)?"')
#: pydoc marks headings as bold text.
_TITLE = re.compile(r'<strong class="title">(.*?)</strong>', re.DOTALL)
_SECTION = re.compile(r'<strong class="bigsection">(.*?)</strong>', re.DOTALL)
_FILE_LINK = re.compile(r'<a href="file:[^"]*">(.*?)</a>', re.DOTALL)


class DemoSite:
    """Serves the pages. Each is rendered at its first request."""

    def __init__(self) -> None:
        self._pages: dict[str, bytes] = {}
        self._renderer: anyio.abc.Process | None = None
        self._answers: BufferedByteReceiveStream | None = None
        self._turn = anyio.Lock()

    def index(self) -> bytes:
        rows = "\n".join(f'<li><a href="/demo/{name}.html">{html.escape(name)}</a></li>' for name in DEMO_MODULES)
        title = "Python standard library: a site to scrape"
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
            f"<body><h1>{title}</h1>\n<p>{len(DEMO_MODULES)} modules of this Python, rendered by pydoc.</p>\n"
            f"<ul>\n{rows}\n</ul></body></html>\n"
        ).encode()

    async def page(self, file_name: str) -> bytes:
        name = file_name.removesuffix(".html")
        if name not in _NAMES or name == file_name:
            raise route_missing(f"/demo/{file_name}")
        if name not in self._pages:
            async with self._turn:
                if name not in self._pages:
                    self._pages[name] = await self._render(name)
        return self._pages[name]

    async def close(self) -> None:
        # Cleared before the first await: two concurrent closes must not wait for the same child.
        renderer, self._renderer = self._renderer, None
        if renderer is not None:
            with anyio.CancelScope(shield=True):
                # It may have exited already: it exits when its standard input closes.
                with suppress(ProcessLookupError):
                    renderer.kill()
                await renderer.wait()
                await renderer.aclose()

    async def _render(self, name: str) -> bytes:
        page: bytes | None = None
        try:
            with anyio.move_on_after(_RENDER_LIMIT_S):
                page = await self._ask(name)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, ValueError):
            page = None
        finally:
            if page is None:
                # The child may be half-way through a page: the next page needs a new child.
                await self.close()
        if page is None:
            raise ErrorAnswer(500, "internal-server-error", f"The page of module {name} could not be rendered")
        return _tidy(page.decode("utf-8", "replace")).encode()

    async def _ask(self, name: str) -> bytes:
        if self._renderer is None:
            # In its own session, so that Ctrl-C at the terminal does not reach it: draining Runs may still need pages.
            # -I: no module comes from the current directory. Other processes may read its environment: it has what
            # Python may need to start, and no token.
            self._renderer = await anyio.open_process(
                [sys.executable, "-I", "-W", "ignore", "-c", _RENDERER],
                env={name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            assert self._renderer.stdout is not None
            self._answers = BufferedByteReceiveStream(self._renderer.stdout)
        assert self._renderer.stdin is not None
        assert self._answers is not None
        await self._renderer.stdin.send(f"{name}\n".encode())
        length = int(await self._answers.receive_until(b"\n", 20))
        if length > _MAX_PAGE_BYTES:
            raise ValueError(name)
        return await self._answers.receive_exactly(length)


def _tidy(page: str) -> str:
    """Turn bold headings into headings, and local links that leave the site into links to the index."""
    page = _TITLE.sub(r"<h1>\1</h1>", page)
    page = _SECTION.sub(r"<h2>\1</h2>", page)
    page = _FILE_LINK.sub(r"\1", page)
    page = page.replace('href="."', 'href="./"')
    return _LOCAL_LINK.sub(lambda link: link[0] if link[1] in _NAMES else 'href="./"', page)


@asynccontextmanager
async def open_demo_site() -> AsyncIterator[DemoSite]:
    """Open the site. Its child process ends with the block."""
    site = DemoSite()
    try:
        yield site
    finally:
        await site.close()
