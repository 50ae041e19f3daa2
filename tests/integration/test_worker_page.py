"""The live page in a real browser: a batch from its submission to its downloads, and what keeps the page usable."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from tests.support.accessibility import accessibility_problems
from tests.support.api_process import ACTOR
from tests.support.browser import be_a_phone, browser, complaints, in_a_browser
from tests.support.command_line import batchrun
from tests.support.crash import open_api, wait_until
from tests.support.worker_process import WorkerProcess

#: Duration of Runs that end only by an abort: longer than any test.
LONG_MS = 600_000
HOSTILE = "<img src=x onerror=alert(1)> & so"


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Iterator[WorkerProcess]:
    """One worker for all tests; each test has its own batches."""
    path = tmp_path_factory.mktemp("page")
    with open_api(path / "api") as api:
        worker = WorkerProcess(path / "data", api.base_url)
        profiles = worker.data_dir / "profiles"
        profiles.mkdir()
        (profiles / "shop.toml").write_text(f'[task]\nactor = "{ACTOR}"\nname = "shop"\n[retry]\nmax_attempts = 1\n')
        with worker.running():
            yield worker


class Page:
    """The page as a person uses it."""

    def __init__(self, driver: webdriver.Chrome, worker: WorkerProcess) -> None:
        self.driver, self.worker = driver, worker
        said = batchrun("worker", "page", "--data", str(worker.data_dir), cwd=worker.data_dir)
        self.opened_by = said.out.strip()
        self.address = self.opened_by.partition("/#key=")[0]
        port = worker.address.rpartition(":")[2]
        assert re.fullmatch(rf"http://[0-9a-f]{{16}}\.localhost:{port}", self.address), said.err
        driver.get(self.opened_by)
        wait_until(lambda: self.text("#connection") == "live")

    def text(self, selector: str = "main") -> str:
        """Return the text of an element."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.driver.execute_script(script, selector))

    def find(self, selector: str) -> WebElement:
        """Return an element, once it is shown."""
        wait_until(lambda: any(each.is_displayed() for each in self.driver.find_elements(By.CSS_SELECTOR, selector)))
        return next(each for each in self.driver.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed())

    def link(self, text: str) -> WebElement:
        """Return a link, once it is shown."""
        wait_until(lambda: self.driver.find_elements(By.PARTIAL_LINK_TEXT, text))
        return self.driver.find_element(By.PARTIAL_LINK_TEXT, text)

    def button(self, text: str) -> WebElement:
        """Return a button by what it says, once it is shown."""
        path = f"//button[normalize-space()='{text}']"
        wait_until(lambda: any(each.is_displayed() for each in self.driver.find_elements(By.XPATH, path)))
        return next(each for each in self.driver.find_elements(By.XPATH, path) if each.is_displayed())

    def press(self, element: WebElement) -> None:
        """Press a control with the keyboard."""
        self.driver.execute_script("arguments[0].focus()", element)
        element.send_keys(Keys.ENTER)

    def go(self, address: str) -> None:
        """Go to a part of the page."""
        self.driver.execute_script("location.hash = arguments[0]", address)

    def see(self, words: str, selector: str = "main") -> None:
        """Wait until the page shows these words."""
        wait_until(lambda: words in self.text(selector))

    def open_batch(self, name: str, tab: str = "") -> str:
        """Open the page of a batch; return its id."""
        wait_until(lambda: _status(self.worker, name))
        batch_id = str(_status(self.worker, name)["id"])
        self.go(f"#/batches/{batch_id}{tab}")
        wait_until(lambda: self.text("h1") == name)
        return batch_id


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    """Where the browser puts files."""
    found: Path = tmp_path_factory.mktemp("downloads")
    return found


@pytest.fixture(scope="module")
def page(worker, downloads) -> Iterator[Page]:
    """The page, open in a browser."""
    with browser() as driver:
        given = {"behavior": "allow", "downloadPath": str(downloads)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", given)
        yield Page(driver, worker)
        assert complaints(driver) == []


def _status(worker: WorkerProcess, name: str) -> dict[str, Any]:
    page = orjson.loads(worker.ask("/v1/batches")[1])
    found: dict[str, Any] = next((each for each in page["items"] if each["name"] == name), {})
    return found


def _submit(worker: WorkerProcess, name: str, jobs: list[dict[str, Any]]) -> None:
    """Submit a batch under the profile."""
    given = ("--data", str(worker.data_dir), "--profile", "shop", "--jobs", "-", "--name", name)
    lines = b"".join(orjson.dumps(job) + b"\n" for job in jobs)
    said = batchrun("worker", "submit", *given, cwd=worker.data_dir, stdin=lines.decode())
    assert said.code == 0, said.err


def test_the_page_runs_only_its_own_modules(worker):
    """A policy forbids others, and markup made of text; the events need the key."""
    status, text = worker.ask("/")
    assert status == 200
    assert text.count(b"<script") == text.count(b'<script type="module" src="/page/main.js"></script>') == 1
    with worker.opened("/") as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self'; style-src 'self'; connect-src 'self'" in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert worker.ask("/page/nothing.js")[0] == 404
    assert worker.ask("/v1/events", Authorization="Bearer wrong")[0] == 401


@in_a_browser
def test_a_batch_goes_from_its_files_to_its_downloads(page, worker, downloads, tmp_path):
    """Planned and submitted in the form, watched, a cause of failure retried, records searched, items saved as CSV."""
    jobs = tmp_path / "prices.jsonl"
    jobs.write_bytes(b"".join(orjson.dumps({"n": n, "fails": n < 3}) + b"\n" for n in range(8)))
    page.go("#/submit")
    Select(page.find("#profile")).select_by_visible_text("shop")
    page.driver.find_element(By.ID, "jobs").send_keys(str(jobs))
    page.press(page.button("Show the plan"))
    page.see("not checked: the Actor has no input schema")
    assert _status(worker, "prices") == {}, "nothing is submitted yet"
    assert accessibility_problems(page.driver) == []
    page.press(page.button("Start 8 Runs"))
    wait_until(lambda: page.text("h1") == "prices")
    page.see("8 of 8 jobs done")
    assert _status(worker, "prices")["outcomes"] == {"succeeded": 5, "failed": 3}
    page.see("5 succeeded")
    wait_until(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "figure.chart svg[role=img]")) == 4)
    page.see("8 Runs that ended", "section[aria-label='How long Runs took']")
    wait_until(lambda: page.driver.find_elements(By.CSS_SELECTOR, "svg[aria-label^='How long 8 Runs took: p50']"))
    page.see("Total\t8", "section[aria-label='Costs'] tbody")
    page.link("Failures 3").click()
    page.see("told to fail")
    page.see("3 jobs did not succeed, for 1 cause")
    page.press(page.button("Retry 3…"))
    page.see("Starts 3 Runs in another round of this batch, which is resumed.", "dialog")
    page.press(page.button("Retry 3 jobs"))
    page.see("3 jobs will be retried", "#said")
    records = Path(_status(worker, "prices")["out_dir"]) / "records.jsonl"
    wait_until(lambda: records.read_bytes().count(b"\n") == 11)
    wait_until(lambda: _status(worker, "prices")["state"] == "finished")
    page.link("Records that failed").click()
    page.see("6 records found.")
    page.find(".lines summary").click()
    page.press(page.button("Log"))
    wait_until(lambda: page.driver.find_elements(By.CSS_SELECTOR, "dialog.wide"))
    page.press(page.button("Close"))
    field = page.find("#line-search")
    field.send_keys(str(_record(worker, "prices", 0)["key"]), Keys.ENTER)
    page.see("2 records found.")
    page.link("Items 11").click()
    page.see("All 11 items, newest first.")
    page.press(page.find("button[aria-label='Download all items as CSV']"))
    wait_until((downloads / "prices-items.csv").exists)
    assert (downloads / "prices-items.csv").read_text("utf-8-sig").startswith("_key,_line,_run,_outcome,n,of\n")
    page.link("Settings").click()
    page.see("retry.max_attempts")


def _record(worker: WorkerProcess, name: str, failed: int) -> dict[str, Any]:
    """Return one of the failed records of a batch."""
    _, text = worker.ask(f"/v1/batches/{name}/records/page?outcome=failed")
    line: dict[str, Any] = orjson.loads(text)["lines"][failed]["line"]
    return line


@in_a_browser
def test_a_batch_is_watched_paused_and_cancelled_with_the_keyboard(page, worker):
    """Its numbers are the worker's, its name is shown as text, and a dialog says what will happen."""
    _submit(worker, HOSTILE, [{"n": n, "ms": LONG_MS} for n in range(3)])
    page.open_batch(HOSTILE)
    page.see("3 live Runs")
    wait_until(lambda: page.driver.find_elements(By.CSS_SELECTOR, "[aria-label='0 % done: 3 live']"))
    assert page.driver.find_elements(By.CSS_SELECTOR, "main img") == []
    page.press(page.button("Pause"))
    page.see("pausing")
    assert _status(worker, HOSTILE)["state"] == "pausing"
    page.press(page.button("Cancel…"))
    page.see("Aborts 3 live Runs", "dialog")
    assert accessibility_problems(page.driver) == []
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)  # the focused button changes nothing
    wait_until(lambda: not page.driver.find_elements(By.TAG_NAME, "dialog"))
    assert _status(worker, HOSTILE)["state"] == "pausing"
    page.press(page.button("Cancel…"))
    page.press(page.button("Cancel the batch"))
    page.see("cancelled")
    assert _status(worker, HOSTILE)["outcomes"] == {"aborted": 3}
    page.see("3 did not succeed")
    page.press(page.button("Delete…"))
    page.see("Deletes 3 records, 0 items, the ledger and the logs", "dialog")
    page.press(page.button("Delete the batch"))
    wait_until(lambda: not _status(worker, HOSTILE))
    wait_until(lambda: page.text("h1") == "Batches")
    wait_until(lambda: HOSTILE not in page.text())


@in_a_browser
def test_a_live_run_is_found_read_and_aborted(page, worker):
    """Oldest first, with the end of its log."""
    worker.put_batch("live", [{"n": n, "ms": LONG_MS} for n in range(2)])
    page.open_batch("live", "/runs")
    wait_until(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "td.orders")) == 2)
    page.press(page.button("Log"))
    page.see("empty so far", "dialog")
    page.press(page.button("Close"))
    page.press(page.button("Abort…"))
    page.see("ends as aborted", "dialog")
    page.press(page.button("Abort the Run"))
    page.see("1 did not succeed")
    wait_until(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "td.orders")) == 1)
    assert _status(worker, "live")["outcomes"] == {"aborted": 1}


@in_a_browser
def test_the_list_is_searched_sorted_and_filtered(page, worker):
    """Each by an address, so that it can be sent to somebody; what needs attention shows in the tab."""
    worker.put_batch("alpha", [{"n": 1}])
    worker.put_batch("beta", [{"@nope": 1}])
    wait_until(lambda: _status(worker, "beta").get("state") == "failed")
    page.go("#/")
    page.see("beta")
    wait_until(lambda: re.match(r"\(\d+\) Batches", page.driver.title))  # others of the module may be among them

    def names() -> list[str]:
        script = "return [...document.querySelectorAll('#batches .name')].map((each) => each.textContent)"
        found: list[str] = page.driver.execute_script(script)
        return found

    assert names()[0] == "beta"
    page.see("0 of an unknown number")  # its job file was not read
    page.find("#search").send_keys("ALPH")
    wait_until(lambda: names() == ["alpha"])
    assert page.driver.current_url.endswith("#/?search=ALPH")
    page.go("#/?search=no-such-batch")
    page.see("No batch matches.")
    page.go("#/")
    page.press(page.link("Need attention"))
    wait_until(lambda: "beta" in names() and "alpha" not in names())
    page.go("#/")
    page.press(page.find("th a[data-by=name]"))
    wait_until(lambda: page.find("th a[data-by=name]").text == "Batch ↓")
    wait_until(lambda: names()[0] == "alpha")
    assert page.driver.switch_to.active_element.text == "Batch ↓", "the focus stays"


@in_a_browser
def test_several_batches_get_one_order_with_the_keyboard(page, worker):
    """The dialog says what will happen in sum; batches for which an order is not possible are left as they are."""
    for name, lasting in (("bulk-a", 2), ("bulk-b", 1)):
        worker.put_batch(name, [{"n": n, "ms": LONG_MS} for n in range(lasting)])
    worker.put_batch("bulk-c", [{"n": n, "fails": n > 0} for n in range(3)], "[retry]\nmax_attempts = 1\n")
    wait_until(lambda: _status(worker, "bulk-c").get("state") == "finished")
    wait_until(lambda: [_status(worker, name).get("live_runs") for name in ("bulk-a", "bulk-b")] == [2, 1])
    page.go("#/?search=bulk-&sort=name")
    boxes = "#batches tbody input[type=checkbox]"
    wait_until(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, boxes)) == 3)
    first, _, last = page.driver.find_elements(By.CSS_SELECTOR, boxes)
    assert not page.driver.find_element(By.CSS_SELECTOR, ".selection").is_displayed()
    first.send_keys(Keys.SPACE)
    page.see("1 batch selected")
    last.click()
    page.see("2 batches selected")
    page.find("th input").send_keys(Keys.SPACE)
    page.see("3 batches selected")
    assert accessibility_problems(page.driver) == []
    page.press(page.button("Pause 2…"))
    page.see("3 live Runs go on to their end.", "dialog")
    page.see("Leaves 1 batch as it is: not possible.", "dialog")
    page.press(page.button("Pause 2 batches"))
    page.see("2 batches are paused.", "#said")
    assert {_status(worker, name)["state"] for name in ("bulk-a", "bulk-b")} == {"pausing"}
    wait_until(lambda: not page.driver.find_element(By.CSS_SELECTOR, ".selection").is_displayed())
    page.find("th input").send_keys(Keys.SPACE)
    page.press(page.button("Retry failed 1…"))
    page.see("Starts 2 Runs in another round of this batch, which is resumed.", "dialog")
    page.press(page.button("Retry failed 1 batch"))
    records = Path(_status(worker, "bulk-c")["out_dir"]) / "records.jsonl"
    wait_until(lambda: records.read_bytes().count(b"\n") == 5)
    wait_until(lambda: _status(worker, "bulk-c")["state"] == "finished")
    page.find("th input").send_keys(Keys.SPACE)
    page.press(page.button("Cancel 2…"))
    page.see("3 live Runs are aborted; their jobs end as aborted.", "dialog")
    page.press(page.button("Cancel 2 batches"))
    wait_until(lambda: {_status(worker, name)["state"] for name in ("bulk-a", "bulk-b")} == {"cancelled"})
    page.find("th input").send_keys(Keys.SPACE)
    page.press(page.button("Delete…"))
    page.see("Removes 3 batches of the spool from the worker; the records of 6 jobs and", "dialog")
    page.press(page.button("Delete 3 batches"))
    page.see("No batch matches.")
    assert _status(worker, "bulk-a") == {}


@in_a_browser
def test_limits_are_changed_and_an_invalid_one_is_shown_in_the_form(page, worker):
    """Of one batch, and of all together."""
    worker.put_batch("limited", [{"n": n, "ms": LONG_MS} for n in range(5)], "[limits]\nmax_concurrent_runs = 1\n")
    page.open_batch("limited", "/settings")
    page.see("1 live Run")
    page.press(page.button("Change limits…"))
    field = page.find("dialog input[name=max_concurrent_runs]")
    field.clear()
    field.send_keys("many", Keys.ENTER)
    page.see("max_concurrent_runs", "dialog .trouble")
    field.clear()
    field.send_keys("4", Keys.ENTER)
    page.see("4 live Runs")
    assert _status(worker, "limited")["live_runs"] == 4
    page.go("#/worker")
    page.press(page.button("Change limits…"))
    page.find("dialog input[name=budget_usd]").send_keys("7.5", Keys.ENTER)
    page.see("of $7.50")
    assert orjson.loads(worker.ask("/v1/limits")[1])["budget_usd"] == 7.5
    page.see("disk free")
    page.see("[notify] of worker.toml names a webhook or a command", "section[aria-label=Notifications]")
    page.press(page.button("Change limits…"))
    field = page.find("dialog input[name=budget_usd]")
    field.clear()
    field.send_keys("none", Keys.ENTER)
    wait_until(lambda: orjson.loads(worker.ask("/v1/limits")[1])["budget_usd"] is None)


@in_a_browser
def test_every_part_of_the_page_can_be_used_by_everyone(page, worker):
    """Each control has a name, each text contrast; light, and dark on a phone, where nothing overflows."""
    _submit(worker, "w" * 120, [{"n": n, "fails": n == 1} for n in range(4)])
    batch_id = page.open_batch("w" * 120)
    page.see("4 of 4 jobs done")
    batch = f"#/batches/{batch_id}"
    shows = {
        "#/": "w" * 120,
        "#/submit": "Job file",
        "#/worker": "Version",
        batch: "Throughput",
        f"{batch}/runs": "No Run is live",
        f"{batch}/failures": "told to fail",
        f"{batch}/records": "All 4 records",
        f"{batch}/items": "All 4 items",
        f"{batch}/events": "settled",
        f"{batch}/settings": "task.name",
        "#/nowhere": "does not exist",
    }

    def problems() -> dict[str, list[str]]:
        found = {}
        for address, words in shows.items():
            page.go(address)
            page.see(words)
            found[address] = accessibility_problems(page.driver)
            width, room = page.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            found[address] += [f"{width} px wide"] if width > room else []
        return {address: each for address, each in found.items() if each}

    assert problems() == {}
    be_a_phone(page.driver)
    assert problems() == {}
    ground = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(18, 22, 26)"


@in_a_browser
def test_the_report_is_opened_without_the_pages_key(page, worker):
    """By a link that needs no header; the report cannot read the page's key, although it is of the same address."""
    worker.put_batch("open", [{"n": 1}])
    page.open_batch("open")
    page.see("1 of 1 job done")
    before = page.driver.current_window_handle
    wait_until(lambda: page.link("Report").get_attribute("href"))
    page.link("Report").click()
    wait_until(lambda: len(page.driver.window_handles) == 2)
    page.driver.switch_to.window(next(each for each in page.driver.window_handles if each != before))
    wait_until(lambda: "open" in page.driver.title)
    assert page.driver.execute_script("return self.origin") == "null"
    page.driver.close()
    page.driver.switch_to.window(before)


@in_a_browser
def test_the_key_of_the_page_stays_in_tabs_of_its_address(page, worker):
    """The address loses it; no cookie has it, which programs at other ports would receive; a reload still works.

    A link opens in another tab of the browser while one is open; what the browser's history has opens no other browser.
    """
    worker.put_batch("sent", [{"n": 1}])
    page.go("#/")
    assert page.driver.current_url.startswith(f"{page.address}/#/")
    assert page.driver.get_cookies() == []
    page.driver.refresh()
    wait_until(lambda: page.text("#connection") == "live")
    wait_until(lambda: _status(worker, "sent"))
    page.driver.switch_to.new_window("tab")
    page.driver.get(f"{page.address}/#/batches/{_status(worker, 'sent')['id']}")
    wait_until(lambda: page.text("h1") == "sent")
    assert page.driver.execute_script("return localStorage.length") == 0
    page.driver.close()
    page.driver.switch_to.window(page.driver.window_handles[0])
    with browser() as other:
        other.get(page.opened_by)
        said = "return document.querySelector('#connection')?.innerText ?? ''"
        wait_until(lambda: "needs the link that batchrun worker page prints" in other.execute_script(said))


@in_a_browser
def test_the_page_of_each_worker_has_another_name(tmp_path, page):
    """A program that takes a killed worker's port over gets a key that no worker takes any more.

    What it leaves in the browser, a service worker say, is for the old page's name: it does not see the next link.
    """
    driver, first = page.driver, page.driver.current_window_handle
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url)
        with worker.running() as process:
            driver.switch_to.new_window("tab")
            page = Page(driver, worker)
            page.see("No batches yet")
            worker.put_batch("lasting", [{"n": 1, "ms": LONG_MS}])
            page.see("lasting")
            process.kill()
            wait_until(lambda: "The page is out of date" in page.text("#connection"))
            assert driver.title.startswith("✕ ")
        port = int(worker.address.rpartition(":")[2])
        with worker.running(port=port):
            wait_until(lambda: "a restarted worker has a new one" in page.text("#connection"))
            driver.switch_to.new_window("tab")
            next_page = Page(driver, worker)
            assert next_page.address != page.address
            page = next_page
            page.see("lasting")
            page.open_batch("lasting")
            page.see("1 live Run")
    for tab in set(driver.window_handles) - {first}:
        driver.switch_to.window(tab)
        driver.close()
    driver.switch_to.window(first)
