"""The page at the server's address: what it may do, and what a person sees with it in a real browser."""

import base64
import hashlib
import os
import pty
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from anyio.from_thread import BlockingPortal, start_blocking_portal
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from batchrun.config import ApiConfig
from batchrun.errors import OutputError
from batchrun.model import RunId
from batchrun.report.failures_by_cause import run_address
from batchrun.server import InlineContext
from batchrun.server.settings import AccountSettings
from tests.support.browser import be_a_phone, browser, complaints, in_a_browser
from tests.support.crash import wait_until
from tests.support.forked import ForkedProcess, start
from tests.support.server_api import ACTORS, Api, open_api

HOSTILE = "<img src=x onerror=alert(1)>"
ITEMS = 120


async def test_the_page_is_served_without_a_token_and_holds_none(api: Api) -> None:
    """The same for everyone; nothing but its own script and style runs, not even what lies at the same address."""
    answer = await api.send("GET", "/", token=None)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert (await api.send("HEAD", "/", token=None)).status == 200
    assert api.server.token not in answer.body.decode()
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for name, element in (("script-src", "script"), ("style-src", "style")):
        (inside,) = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", answer.body.decode(), re.DOTALL)
        assert policy[name] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
    assert (policy["trusted-types"], policy["frame-ancestors"]) == ("'none'", "'none'")
    names = ("X-Content-Type-Options", "Cache-Control", "Referrer-Policy")
    assert [answer.headers[name] for name in names] == ["nosniff", "no-store", "no-referrer"]


async def test_the_page_has_no_rate_limit_and_changes_nothing_beside_it(api: Api) -> None:
    """Clients find an error in the API's words where there is nothing, as before."""
    assert {(await api.get("/")).status for _ in range(70)} == {200}
    assert (await api.send("POST", "/")).refusal == (405, "method-not-allowed")
    assert (await api.get("/page.js")).refusal == (404, "page-not-found")
    assert (await api.get("/demo")).status == 200


def test_a_run_of_a_local_server_is_shown_by_its_page() -> None:
    """Elsewhere, by the console or by the API itself; that of an embedded server is gone with the batch."""
    run = RunId("a/b")
    assert run_address(ApiConfig(base_url="http://127.0.0.1:3333/v2"), run) == "http://127.0.0.1:3333/#/runs/a%2Fb"
    assert run_address(ApiConfig(base_url="http://localhost:3333"), run) == "http://localhost:3333/#/runs/a%2Fb"
    assert run_address(ApiConfig(base_url="https://api.apify.com"), run) == "https://console.apify.com/view/runs/a%2Fb"
    assert run_address(ApiConfig(base_url="https://other.example"), run) == "https://other.example/v2/actor-runs/a%2Fb"
    assert run_address(ApiConfig(base_url="embedded"), run) is None


@contextmanager
def at_a_terminal(directory: Path, *arguments: str) -> Iterator[tuple[ForkedProcess, int]]:
    """Run a command whose stderr is a terminal; yield it and the terminal's other end."""
    ours, its_end = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("APIFY_", "BATCHRUN_"))}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": its_end, "text": True}
    process = start("batchrun", *arguments, cwd=directory, environ=environ, **streams)
    os.close(its_end)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def read_until(terminal: int, word: bytes) -> str:
    """Return what a terminal shows up to a word."""
    said = b""
    while word not in said:
        said += os.read(terminal, 4096)
    return said.decode()


def test_serve_prints_a_link_that_opens_the_page_on_a_terminal(tmp_path: Path) -> None:
    """With a token for it alone; a log file gets none (in test_command_line)."""
    with at_a_terminal(tmp_path, "serve", "--port", "0", "--data", "state") as (process, terminal):
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        said = read_until(terminal, b"actors ")
    port = base_url.rpartition(":")[2]
    assert re.search(rf"page     http://[0-9a-f]{{16}}\.localhost:{port}/#token=batchrun_page_[\w-]+\r\n", said)


async def test_the_links_token_ends_with_the_server(tmp_path: Path) -> None:
    """A page that is still open sends it to whatever program takes the port over; it acts for the first account.

    What that program leaves in the browser is for the old page's name.
    """
    async with open_api(tmp_path) as api:
        host, _, key = api.server.page_link.partition("/#token=")
        assert (await api.send("GET", "/v2/users/me", token=key)).data["username"] == "local"
    async with open_api(tmp_path) as api:
        assert (await api.send("GET", "/v2/users/me", token=key)).refusal == (401, "user-or-token-not-found")
        assert not api.server.page_link.startswith(host.rpartition(":")[0])


async def test_a_token_is_exchanged_for_one_that_ends_with_the_server(tmp_path: Path) -> None:
    """A page that is open sends what it has to whatever program takes the port over. A Run's token ends before."""
    bob = AccountSettings(username="bob", token="bobs-token")
    async with open_api(tmp_path, accounts=(bob,)) as api:
        kept = (await api.send("POST", "/page/session", token="bobs-token")).data["token"]
        assert (await api.send("GET", "/v2/users/me", token=kept)).data["username"] == "bob"
        forged = f"{kept[:-1]}{'0' if kept[-1] != '0' else '1'}"
        assert (await api.send("GET", "/v2/users/me", token=forged)).status == 401
        assert (await api.send("POST", "/page/session", token="wrong")).status == 401
    async with open_api(tmp_path, accounts=(bob,)) as api:
        assert (await api.send("GET", "/v2/users/me", token=kept)).refusal == (401, "user-or-token-not-found")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6, or is no Linux")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::", "localhost"])
async def test_nobody_else_can_listen_where_a_browser_looks_for_the_page(tmp_path: Path, host: str) -> None:
    """A browser tries both loopback addresses: who listens at the other one would get the link's token.

    At all addresses, the server may be in a container, and cannot say who listens at those of the host.
    """
    async with open_api(tmp_path, host=host) as api:
        assert (".localhost:" in api.server.page_link) == (host not in ("0.0.0.0", "::"))
        port = int(api.server.base_url.rpartition(":")[2])
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")):
            with socket.socket(family) as squatter:
                squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    squatter.bind((address, port))
    with socket.socket(socket.AF_INET6) as squatter:
        squatter.bind(("::1", port))
        squatter.listen()
        with pytest.raises(OutputError, match=r"cannot listen on .*: Address already in use"):
            async with open_api(tmp_path, host=host, port=port):
                pass


def test_an_embedded_batch_prints_such_a_link_on_a_terminal(tmp_path: Path) -> None:
    """Before the first start."""
    (tmp_path / "jobs.jsonl").write_text('{"message": "hello"}\n')
    given = ("--jobs", "jobs.jsonl", "--out", "out", "--actors", str(ACTORS / "acrobat"))
    with at_a_terminal(tmp_path, "run", *given) as (_, terminal):
        said = read_until(terminal, b"#token=batchrun_page_")
    assert re.search(r"Watch its Runs at http://[0-9a-f]{16}\.localhost:\d+/#token=batchrun_page_", said)


@dataclass
class Stage:
    """A server in another thread, whose Actor goes on once `cue` is set, and a browser."""

    api: Api
    portal: BlockingPortal
    cue: anyio.Event
    driver: webdriver.Chrome

    def open(self, fragment: str) -> None:
        """Open the page as if from a link: in a tab that has shown another page."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.api.server.base_url}/{fragment}")

    def text(self, selector: str) -> str:
        """Return the text of all elements."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText).join('\\n')"
        return str(self.driver.execute_script(script, selector))

    def press(self, name: str, within: str = "main") -> None:
        """Press a link or a summary with the keyboard."""
        wait_until(lambda: name in self.text(f"{within} a, {within} summary"))
        elements = self.driver.find_elements(By.CSS_SELECTOR, f"{within} a, {within} summary")
        next(each for each in elements if name in each.text).send_keys(Keys.ENTER)


@pytest.fixture(scope="module")
def opened_browser() -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    with browser() as driver:
        yield driver


@pytest.fixture
def driver(opened_browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The browser with a new tab, whose size and storage no other test has changed."""
    first = opened_browser.current_window_handle
    opened_browser.switch_to.new_window("tab")
    yield opened_browser
    opened_browser.close()
    opened_browser.switch_to.window(first)


@pytest.fixture
def stage(tmp_path: Path, driver: webdriver.Chrome) -> Iterator[Stage]:
    """A server that closes what it has to those without its token."""
    cues: list[anyio.Event] = []

    async def act(context: InlineContext) -> None:
        await context.log(f"first line {HOSTILE}\n")
        items = [
            {"no": n, HOSTILE: HOSTILE, "exact": 12345678901234567890, "deep": [{"x": n}] * 30} for n in range(ITEMS)
        ]
        await context.push_items([{**item, "constructor": None} for item in items])
        await context.set_value("picture", b"\x89\x00\xff")
        await cues[0].wait()
        await context.log("last line\n")
        context.fail(7, f"blocked {HOSTILE}")

    async def make_cue() -> anyio.Event:
        return anyio.Event()

    with start_blocking_portal() as portal:
        cues.append(portal.call(make_cue))
        actors = {"test/act": act}
        with portal.wrap_async_context_manager(open_api(tmp_path, is_restricted=True, inline_actors=actors)) as api:
            yield Stage(api, portal, cues[0], driver)


@in_a_browser
def test_a_run_is_followed_from_the_list_to_its_end(stage: Stage) -> None:
    """With the keyboard: its log grows, its items are paged, its values can be read; nothing of it becomes markup."""
    task = stage.portal.call(lambda: stage.api.create_task("test/act", name="one-task", input={"query": HOSTILE}))
    run = stage.portal.call(stage.api.start, task).data["id"]
    link = stage.api.server.page_link
    stage.driver.get(link)
    wait_until(lambda: "running" in stage.text("#runs"))
    assert "live 1" in stage.text("#statuses")
    assert ("one-task" in stage.text("#tasks"), "test/act" in stage.text("#actors")) == (True, True)
    assert (stage.driver.current_url, stage.driver.get_cookies()) == (f"{link.partition('#')[0]}", [])

    stage.press(run)
    wait_until(lambda: f"first line {HOSTILE}" in stage.text("#log"))
    wait_until(lambda: f"1 to 50 of {ITEMS}" in stage.text("nav"))
    assert HOSTILE in stage.text("#items th")
    assert "12345678901234567890" in stage.text("#items td")
    wait_until(lambda: HOSTILE in stage.text("#input"))
    stage.press("Next")
    wait_until(lambda: stage.text("#items td").startswith("51\n"))
    stage.press("x", within="#items")
    wait_until(lambda: '"x": 50' in stage.text("#items pre"))

    stage.press("picture", within="#values")
    wait_until(lambda: "Not text: application/octet-stream" in stage.text("#values"))
    signed = stage.driver.find_element(By.CSS_SELECTOR, "[aria-label='Download picture']").get_attribute("href")
    elsewhere = str(signed).replace(link.partition("/#")[0], stage.api.server.base_url)
    with urlopen(elsewhere) as answer:  # without a token: the link is signed
        assert answer.read() == b"\x89\x00\xff"

    stage.portal.call(stage.cue.set)
    wait_until(lambda: "last line" in stage.text("#log"))
    wait_until(lambda: f"failed\nblocked {HOSTILE}" in stage.text("#run-status"))
    assert "Exit code\n7" in stage.text("#run-facts")
    assert stage.driver.find_elements(By.CSS_SELECTOR, "main img") == []
    be_a_phone(stage.driver)
    assert stage.driver.execute_script("return document.documentElement.scrollWidth") == 360
    assert complaints(stage.driver) == []


@in_a_browser
def test_the_page_asks_for_the_token_and_says_what_is_missing(stage: Stage) -> None:
    """A tab with a wrong token, a server without Runs, a Run that does not exist."""
    stage.open("#token=wrong")
    wait_until(lambda: "does not accept this token" in stage.text("#state"))
    stage.driver.find_element(By.ID, "token").send_keys(stage.api.server.token, Keys.ENTER)
    wait_until(lambda: "No Runs here yet" in stage.text("#overview"))
    kept = stage.driver.execute_script("return sessionStorage.getItem('batchrun-token')")
    assert kept.startswith("batchrun_page_"), "another program may take the port over"
    assert "No tasks yet" in stage.text("#overview")
    stage.open("#/runs/nothing")
    wait_until(lambda: stage.text("#state") == "Actor run was not found")
    assert stage.text("h1") == "Not found"
    assert complaints(stage.driver) == []


#: What a program leaves in a browser: it answers each navigation by itself, and asks its server for nothing.
_LEFT = b"""
addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => event.respondWith(
  new Response("<title>FAKE</title>", { headers: { "Content-Type": "text/html" } })));
"""
_LEAVES = b"""<title>squatter</title><script>
navigator.serviceWorker.register("/folder/left.js", { scope: "/" }).then(() => navigator.serviceWorker.ready)
  .then(() => { document.title = "left"; });
</script>"""


@in_a_browser
async def test_what_a_program_before_has_left_in_a_browser_is_ended(tmp_path: Path, driver: webdriver.Chrome) -> None:
    """Its service worker, of a script in a folder, answers for this address once; then the page is the server's."""

    async def squat(request: web.BaseRequest) -> web.Response:
        is_script = request.path == "/folder/left.js"
        body, kind = (_LEFT, "javascript") if is_script else (_LEAVES, "html")
        return web.Response(body=body, content_type=f"text/{kind}", headers={"Service-Worker-Allowed": "/"})

    async def load(url: str, *, title: str) -> None:
        await anyio.to_thread.run_sync(driver.get, url)
        with anyio.fail_after(20):
            while title not in await anyio.to_thread.run_sync(lambda: driver.title):  # noqa: ASYNC110 - a browser wakes nobody here
                await anyio.sleep(0.05)

    squatter = web.ServerRunner(web.Server(squat))
    await squatter.setup()
    site = web.TCPSite(squatter, "127.0.0.1", 0)
    await site.start()
    port = squatter.addresses[0][1]
    url = f"http://127.0.0.1:{port}/"
    await load(url, title="left")
    await squatter.cleanup()
    async with open_api(tmp_path, port=port):
        await load(url, title="batchrun")
