"""The live page in a real browser: it shows the worker's numbers, and its buttons work."""

from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import orjson
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.support.api_process import ACTOR
from tests.support.browser import be_a_phone, browser, complaints, in_a_browser
from tests.support.command_line import batchrun
from tests.support.crash import open_api, wait_until
from tests.support.worker_process import WorkerProcess

#: Duration of Runs that end only by an abort: longer than any test.
LONG_MS = 600_000


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Iterator[WorkerProcess]:
    """One worker for all tests; each test has its own batches."""
    path = tmp_path_factory.mktemp("page")
    with open_api(path / "api") as api:
        worker = WorkerProcess(path / "data", api.base_url)
        with worker.running():
            yield worker


class Page:
    """The page as a person uses it."""

    def __init__(self, driver: webdriver.Chrome, worker: WorkerProcess) -> None:
        self.driver, self.worker = driver, worker
        said = batchrun("worker", "page", "--data", str(worker.data_dir), cwd=worker.data_dir)
        assert said.out.startswith(f"{worker.address}/#key="), said.err
        self.link = said.out.strip()
        driver.get(self.link)
        wait_until(lambda: self.text("#connection") == "live")

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.driver.execute_script(script, selector))

    def row(self, name: str) -> WebElement:
        """Return the batch with this name, once it is shown."""
        path = f"//li[contains(@class, 'batch')][.//h3[normalize-space()='{name}']]"
        wait_until(lambda: self.driver.find_elements(By.XPATH, path))
        return self.driver.find_element(By.XPATH, path)

    def press(self, element: WebElement) -> None:
        """Press a button with the keyboard."""
        self.driver.execute_script("arguments[0].focus()", element)
        element.send_keys(Keys.ENTER)

    def order(self, name: str, order: str) -> None:
        """Press a batch's button."""
        self.press(self.row(name).find_element(By.CSS_SELECTOR, f"button[data-order={order}]"))


@pytest.fixture(scope="module")
def page(worker) -> Iterator[Page]:
    """The page, open in a browser."""
    with browser() as driver:
        yield Page(driver, worker)
        assert complaints(driver) == []


def _status(worker: WorkerProcess, name: str) -> dict[str, Any]:
    page = orjson.loads(worker.ask("/v1/batches")[1])
    found: dict[str, Any] = next((each for each in page["items"] if each["name"] == name), {})
    return found


def test_the_page_runs_only_its_own_script(worker):
    """A policy forbids others; the events need the key."""
    status, text = worker.ask("/")
    assert status == 200
    assert b"script-src &#39;self&#39;;" in text
    assert text.count(b"<script") == 1
    assert worker.ask("/v1/events", Authorization="Bearer wrong")[0] == 401


@in_a_browser
def test_a_batch_is_watched_paused_and_cancelled_with_the_keyboard(page, worker):
    """Its numbers are the worker's, its name is shown as text, and its buttons work."""
    name = "<img src=x onerror=alert(1)> & so"
    jobs = "".join(f'{{"n": {n}, "ms": {LONG_MS}}}\n' for n in range(3))
    (worker.data_dir / "profiles" / "held.toml").write_text(f'[task]\nactor = "{ACTOR}"\nname = "held"\n')
    given = ("--data", str(worker.data_dir), "--profile", "held", "--jobs", "-", "--name", name)
    said = batchrun("worker", "submit", *given, cwd=worker.data_dir, stdin=jobs)
    assert said.code == 0, said.err
    wait_until(lambda: "3 running" in page.row(name).text)
    view = _status(worker, name)
    assert (view["live_runs"], view["state"]) == (3, "active")
    assert "active" in page.row(name).text
    assert page.driver.find_elements(By.CSS_SELECTOR, "#batches img") == []
    wait_until(lambda: "live Runs\n3" in page.text("#worker"))
    page.order(name, "pause")
    wait_until(lambda: "pausing" in page.row(name).text)
    assert _status(worker, name)["state"] == "pausing"
    page.order(name, "cancel")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)  # the focused button changes nothing
    wait_until(lambda: not page.driver.find_element(By.ID, "sure").is_displayed())
    assert _status(worker, name)["state"] == "pausing"
    page.order(name, "cancel")
    page.press(page.driver.find_element(By.CSS_SELECTOR, "#sure button[value=yes]"))
    wait_until(lambda: "cancelled" in page.row(name).text)
    assert _status(worker, name)["outcomes"] == {"aborted": 3}
    assert "3 not succeeded" in page.row(name).text
    page.order(name, "delete")
    page.press(page.driver.find_element(By.CSS_SELECTOR, "#sure button[value=yes]"))
    wait_until(lambda: not _status(worker, name))
    wait_until(lambda: name not in page.text("#batches"))


@in_a_browser
def test_failures_are_shown_by_cause(page, worker):
    """The details of a batch show each cause, its count and a sample."""
    worker.put_batch("failing", [{"n": n, "fails": n < 4} for n in range(9)], "[retry]\nmax_attempts = 1\n")
    wait_until(lambda: "9/9 done" in page.row("failing").text)
    page.row("failing").find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    wait_until(lambda: "4 failed: told to fail" in page.row("failing").text)
    assert "5 succeeded" in page.row("failing").text


@in_a_browser
def test_limits_are_changed_and_an_invalid_one_is_shown_in_the_form(page, worker):
    """Of one batch, and of all together."""
    worker.put_batch("limited", [{"n": n, "ms": LONG_MS} for n in range(5)], "[limits]\nmax_concurrent_runs = 1\n")
    wait_until(lambda: "1 running" in page.row("limited").text)
    page.order("limited", "limits")
    wait_until(lambda: page.driver.find_element(By.ID, "batch-limits-form").is_displayed())
    field = page.driver.find_element(By.CSS_SELECTOR, "#batch-limits-form input[name=max_concurrent_runs]")
    field.send_keys("many", Keys.ENTER)
    wait_until(lambda: "max_concurrent_runs" in page.text("#batch-limits-form .trouble"))
    field.clear()
    field.send_keys("4", Keys.ENTER)
    wait_until(lambda: "4 running" in page.row("limited").text)
    assert _status(worker, "limited")["live_runs"] == 4
    page.press(page.driver.find_element(By.ID, "worker-limits"))
    wait_until(lambda: page.driver.find_element(By.ID, "worker-limits-form").is_displayed())
    field = page.driver.find_element(By.CSS_SELECTOR, "#worker-limits-form input[name=budget_usd]")
    field.send_keys("7.5", Keys.ENTER)
    wait_until(lambda: "of $7.50" in page.text("#worker"))
    assert orjson.loads(worker.ask("/v1/limits")[1])["budget_usd"] == 7.5


@in_a_browser
def test_the_page_fits_a_phone_and_has_a_dark_mode(page, worker):
    """360 px wide, with a long unbreakable name."""
    worker.put_batch("w" * 120, [{"n": 1}])
    page.row("w" * 120)
    be_a_phone(page.driver)
    assert page.driver.execute_script("return document.documentElement.scrollWidth") == 360
    ground = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(18, 22, 26)"


@in_a_browser
def test_the_outputs_of_a_batch_are_opened_from_the_page(page, worker):
    """By links that need no header; the report has no access to the page's key, although it is of the same address."""
    worker.put_batch("open", [{"n": 1}])
    wait_until(lambda: "1/1 done" in page.row("open").text)
    page.row("open").find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    wait_until(lambda: page.row("open").find_element(By.LINK_TEXT, "records").get_attribute("href"))
    links = {
        each.text: each.get_attribute("href") for each in page.row("open").find_elements(By.CSS_SELECTOR, ".links a")
    }
    records = worker.data_dir / "spool/open.out/records.jsonl"
    for name, found in (("records", records.read_bytes()), ("report", b"<!DOCTYPE html>")):
        with urlopen(links[name]) as answer:
            assert answer.read().startswith(found)
    before = page.driver.current_window_handle
    page.row("open").find_element(By.LINK_TEXT, "report").click()
    wait_until(lambda: len(page.driver.window_handles) == 2)
    page.driver.switch_to.window(next(each for each in page.driver.window_handles if each != before))
    wait_until(lambda: "open" in page.driver.title)
    assert page.driver.execute_script("return self.origin") == "null"
    page.driver.close()
    page.driver.switch_to.window(before)


@in_a_browser
def test_the_key_of_the_page_stays_in_its_tab(page, worker):
    """The address loses it; no cookie has it, which programs at other ports would receive; a reload still works.

    What the browser's history has of the link opens the page no second time.
    """
    assert page.driver.current_url == f"{worker.address}/"
    assert page.driver.get_cookies() == []
    page.driver.refresh()
    wait_until(lambda: page.text("#connection") == "live")
    page.driver.switch_to.new_window("tab")
    page.driver.get(page.link)
    wait_until(lambda: "needs the link that batchrun worker page prints" in page.text("#connection"))
    page.driver.close()
    page.driver.switch_to.window(page.driver.window_handles[0])


@in_a_browser
def test_the_page_says_that_a_killed_worker_is_gone_and_opens_with_the_next_ones_link(tmp_path):
    """A program that takes the port over gets a key that no worker takes any more."""
    with open_api(tmp_path / "api") as api, browser() as driver:
        worker = WorkerProcess(tmp_path / "data", api.base_url)
        with worker.running() as process:
            page = Page(driver, worker)
            worker.put_batch("lasting", [{"n": 1, "ms": LONG_MS}])
            wait_until(lambda: "1 running" in page.row("lasting").text)
            process.kill()
            wait_until(lambda: "The page is out of date" in page.text("#connection"))
        port = int(worker.address.rpartition(":")[2])
        with worker.running(port=port):
            wait_until(lambda: "a restarted worker has a new one" in page.text("#connection"))
            page = Page(driver, worker)
            worker.put_batch("later", [{"n": 2}])
            wait_until(lambda: "1/1 done" in page.row("later").text)
            wait_until(lambda: "1 running" in page.row("lasting").text)
