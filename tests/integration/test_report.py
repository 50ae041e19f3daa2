"""`batchrun report`: a self-contained file with the same numbers as the other commands, safe to open."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

import anyio
import orjson

from batchrun import open_batch, run_batch
from batchrun.config import Config
from batchrun.model import Outcome, Selection
from batchrun.server import InlineContext, Server
from batchrun.words.number_words import money
from tests.support.command_line import Said, batchrun
from tests.support.inline_batch import ENVIRON, batch_config, serving

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\x00 & \"'"


class Worker:
    """An Actor that fails or waits as its input says."""

    def __init__(self) -> None:
        self.is_repaired = False
        self.began, self.may_end = anyio.Event(), anyio.Event()

    async def __call__(self, context: InlineContext) -> None:
        """Push an item, write a log line, and fail if the input says so."""
        await context.push_items([{"n": context.input["n"]}])
        await context.log(f"working on {context.input['n']} {HOSTILE}")
        if context.input.get("is_held"):
            self.began.set()
            await self.may_end.wait()
        if (message := context.input.get("message")) and not self.is_repaired:
            context.fail(context.input.get("code", 1), message)


def _config(tmp_path: Path, server: Server, lines: list[dict[str, Any]], **flags: Any) -> Config:
    """Return the configuration of a batch whose last line is no job."""
    given = {
        "run__memory_mb": 128,
        "jobs__on_bad_line": "record",
        "limits__max_concurrent_runs": 16,
        "limits__start_rate": 5000.0,
        "retry__backoff_s": 0.01,
        "breaker__max_failed": "off",
    }
    return batch_config(tmp_path, server, [*lines, b"no job\n"], **{**given, **flags})


def _lines() -> list[dict[str, Any]]:
    """Return jobs of which 12, 5 and 1 fail, with groups, one of them hostile."""
    lines: list[dict[str, Any]] = [{"n": n, "@key": f"k{n}", "@group": "ab"[n % 2]} for n in range(80)]
    for n in range(12):
        lines[n] |= {"message": f"403 at https://example.com/{n}", "code": 91}
    for n in range(12, 17):
        lines[n]["message"] = f"row {n} is no table"
    lines.append({"n": 80, "@key": "<b>\"&'", "@group": HOSTILE.replace("\x00", ""), "message": HOSTILE})
    return lines


async def _say(tmp_path: Path, *arguments: str) -> Said:
    return await anyio.to_thread.run_sync(lambda: batchrun(*arguments, cwd=tmp_path, environ=ENVIRON))


def _parsed(page: str) -> Element:
    """Parse a report and check that it loads and runs nothing."""
    root = ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not names & {"script", "img", "link", "iframe", "object", "base", "form", "image", "use"}
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]
    assert "\u202e" not in page
    return root


def _text(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _by_class(root: Element, name: str) -> Iterator[Element]:
    return (element for element in root.iter() if name in element.get("class", "").split())


def _cards(root: Element) -> dict[str, Element]:
    return {_text(next(card.iter("h2"))): card for card in _by_class(root, "card")}


def _tiles(card: Element) -> dict[str, list[str]]:
    """Return the values of tiles and what stands below them, by name."""
    tiles = [tile for row in _by_class(card, "tiles") for tile in row]
    return {_text(tile[0]): [_text(each) for each in tile[1:]] for tile in tiles}


async def test_the_report_agrees_with_the_other_commands(tmp_path):
    """Outcomes, causes, samples, retries, Runs, items, costs, groups, rounds: as in status, failures and cost."""
    worker = Worker()
    async with serving(tmp_path, worker) as server:
        config = _config(tmp_path, server, _lines())
        await run_batch(config, environ=ENVIRON)
        worker.is_repaired = True
        async with open_batch(config, environ=ENVIRON) as batch:
            await batch.reopen(Selection(keys=["k0", "k1", "k2"]))
            await batch.run()
        said = await _say(tmp_path, "report", "out")
        status = orjson.loads((await _say(tmp_path, "status", "out", "--json")).out)["summary"]
        failures = orjson.loads((await _say(tmp_path, "failures", "out", "--json")).out)
        costs = (await _say(tmp_path, "cost", "out", "--csv")).out.splitlines()
        runs = server.runs_started
    assert (said.code, said.out, said.err) == (0, "", "report   out/report.html\n")
    root = _parsed((tmp_path / "out/report.html").read_text("utf-8"))
    cards = _cards(root)
    legend = [_text(each) for each in next(_by_class(cards["Jobs"], "legend"))]
    assert legend == [
        f"{count} {outcome}" for outcome, count in sorted(status["outcomes"].items(), key=_successes_first)
    ]
    assert status["outcomes"] == {"succeeded": 66, "failed": 15, "invalid": 1}
    tiles = _tiles(cards["Jobs"])
    assert tiles["Succeeded"] == ["80.5 %", "66 of 82"]
    assert tiles["Runs"] == [str(runs), "18 of them retries"]
    assert tiles["Items"][0] == str(status["items"])
    assert tiles["Cost"][0] == money(status["cost_usd"])
    causes = list(_by_class(cards["Failures"], "cause"))
    assert [_text(next(_by_class(each, "count"))) for each in causes] == [
        str(each["count"]) for each in failures["failures"]
    ]
    for cause, failure in zip(causes, failures["failures"], strict=True):
        assert f"batchrun retry out --failure {failure['id']}" in [_text(each) for each in cause.iter("code")]
        assert f"/#/runs/{failure['run_id']}" in next(cause.iter("a")).get("href", "")
        assert f"line {failure['line']}, key " in _text(cause)
    assert '"message":"403 at https://example.com/3"' in _text(causes[0])
    assert 'failed, exit 91, "403 at https://example.com/3"' in _text(causes[0])
    assert "working on 3 " in _text(next(causes[0].iter("pre")))
    assert HOSTILE[:30] in _text(causes[2])
    groups = [[_text(cell) for cell in row] for row in next(cards["Groups"].iter("tbody"))]
    assert [row[:2] for row in groups] == [
        ["a", "40"],
        ["b", "40"],
        ["</script><img src=x onerror=alert(1)>� & \"'", "1"],
    ]
    of_groups = {row.split(",")[0]: row.split(",")[1] for row in costs if row[:2] in ("a,", "b,")}
    assert {row[0]: row[4] for row in groups[:2]} == of_groups
    rounds = [[_text(cell) for cell in row][:3] for row in next(cards["Rounds"].iter("tbody"))]
    assert rounds == [["1", "82", "63"], ["2", "3", "3"]]
    total = [_text(cell) for cell in next(cards["Cost"].iter("tfoot"))[0]]
    assert total[:2] == ["all", str(runs)]
    assert len(next(cards["Slowest Runs"].iter("tbody"))) == 10
    assert len([each for each in root.iter() if each.get("role") == "img"]) >= 4


def _successes_first(item: tuple[str, int]) -> int:
    return list(Outcome).index(Outcome(item[0]))


async def test_a_running_batch_can_be_reported(tmp_path):
    """Another process reports its live Runs and open jobs."""
    worker = Worker()
    lines = [{"n": n} for n in range(5)] + [
        {"n": 5, "is_held": True},
        *({"n": n, "is_held": True} for n in range(6, 9)),
    ]
    async with serving(tmp_path, worker) as server:
        config = _config(tmp_path, server, lines, limits__max_concurrent_runs=1)
        async with open_batch(config, environ=ENVIRON) as batch, anyio.create_task_group() as children:
            children.start_soon(batch.run)
            await worker.began.wait()
            said = await _say(tmp_path, "report", "out", "--out", "-")
            worker.may_end.set()
    assert said.code == 0, said
    root = _parsed(said.out)
    assert _text(next(_by_class(root, "state"))).startswith("Running (process ")
    cards = _cards(root)
    legend = [_text(each) for each in next(_by_class(cards["Jobs"], "legend"))]
    assert legend[0] == "5 succeeded"
    assert legend[-1].endswith(" open")
    assert _tiles(cards["Jobs"])["Runs"] == ["6", "1 live"]
    assert _text(cards["Failures"]).endswith("bad_lines.jsonl") or "No job has failed" in _text(cards["Failures"])
    assert not (tmp_path / "out/report.html").exists()


async def test_the_report_is_written_at_the_end_if_configured(tmp_path):
    """From Python, too; it shows how this process ended and used its slots."""
    async with serving(tmp_path, Worker()) as server:
        config = _config(tmp_path, server, [{"n": n} for n in range(40)], output__report=True)
        async with open_batch(config, environ=ENVIRON) as batch:
            await batch.run()
            assert batch.report is None
        assert batch.report == tmp_path / "out/report.html"
    root = _parsed((tmp_path / "out/report.html").read_text("utf-8"))
    assert _text(next(_by_class(root, "state"))) == "Finished"
    assert re.search(r"Slots: \d+\.\d % in use", _text(_cards(root)["Live Runs"]))


async def test_a_batch_that_was_not_run_leaves_no_report(tmp_path):
    """It was only opened and closed."""
    async with serving(tmp_path, Worker()) as server:
        async with open_batch(_config(tmp_path, server, [{"n": 1}], output__report=True), environ=ENVIRON) as batch:
            pass
        assert batch.report is None
        assert not (tmp_path / "out/report.html").exists()
        said = await _say(tmp_path, "report", "out")
    assert said.code == 0, said
    assert "Nothing to show yet" in (tmp_path / "out/report.html").read_text("utf-8")


def _write_batch(directory: Path) -> None:
    """Write a batch of two jobs on the embedded server."""
    (directory / "jobs.jsonl").write_text('{"message": "a"}\n{"message": "b"}\n')
    (directory / "batch.toml").write_text(
        '[api]\nbase_url = "embedded"\n[task]\nactor = "apify/hello-world"\nname = "hello"\n'
        '[jobs]\nfile = "jobs.jsonl"\n'
    )


def test_a_batch_succeeds_if_its_report_cannot_be_written(tmp_path):
    """Same exit code; a line names the missing file and the command that writes it."""
    _write_batch(tmp_path)
    good = batchrun("run", "batch.toml", "--set", "output.report=true", "--out", "good", cwd=tmp_path)
    assert good.code == 0, good
    assert f"report   {tmp_path / 'good/report.html'}\n" in good.err.replace(
        "report   good", f"report   {tmp_path}/good"
    )
    (tmp_path / "bad/report.html").mkdir(parents=True)
    bad = batchrun("run", "batch.toml", "--set", "output.report=true", "--out", "bad", cwd=tmp_path)
    assert bad.code == 0, bad
    assert "report.html was not written" in bad.err
    assert "`batchrun report bad` writes it" in bad.err.replace(f"{tmp_path}/", "")
    assert "Finished" in bad.err
    assert "\nreport " not in bad.err
    assert [each.name for each in (tmp_path / "bad").iterdir() if "new" in each.name] == []


def test_a_full_disk_leaves_the_old_report(tmp_path):
    """An error that names the file; no half page, no temporary file."""
    file = tmp_path / "report.html"
    file.write_text("before")
    code = (
        "import resource; from pathlib import Path; from batchrun.errors import OutputError\n"
        "from batchrun.output.atomic_write import replace_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    replace_text(Path('report.html'), 'x' * 100_000)\nexcept OutputError as error:\n    print(error)\n"
    )
    full = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert full.stdout.startswith("report.html: File too large; free some space")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    assert file.read_text() == "before"


def test_an_impossible_report_is_explained(tmp_path):
    """No ledger, a damaged ledger, a file that cannot be written: exit 6 and the reason."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "taken.html").mkdir()
    (tmp_path / "damaged/ledger.sqlite3").write_bytes(b"this is no ledger" * 1000)
    _write_batch(tmp_path)
    assert batchrun("run", "batch.toml", "--out", "out", cwd=tmp_path).code == 0
    for arguments, words in (
        (["empty"], "empty: holds no ledger; is it the output directory of a batch?"),
        (["damaged"], "The ledger is damaged"),
        (["out", "--out", "no/such/place.html"], "no/such/place.html: No such file or directory"),
        (["out", "--out", "taken.html"], "taken.html: "),
    ):
        said = batchrun("report", *arguments, cwd=tmp_path)
        assert said.code == 6, said
        assert words in said.err
        assert "Traceback" not in said.err
        assert said.out == ""
