"""`batchrun init`: a batch file for a job file, which `batchrun plan` accepts as it is."""

import json
import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Said, batchrun, serving

ROOT = Path(__file__).parents[2]
TOKEN = "t"
ENVIRON = {"APIFY_TOKEN": TOKEN}
PRODUCTS = "SKU;Product URL;Max Pages;Note;@key\na1;https://example.com/1;2;x;a1\na2;https://example.com/2;3;y, z;a2\n"


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A platform with one task, which starts with "/demo/"."""
    directory = tmp_path_factory.mktemp("api")
    with serving(directory / "state", TOKEN) as address:
        made = batchrun(
            *("task", "create", "--actor", "batchrun/page-scraper", "--name", "pages"),
            *("--input", '{"startUrls": ["/demo/"]}', "--api-url", address),
            cwd=directory,
            environ=ENVIRON,
        )
        assert made.code == 0, made
        yield address


def init(directory: Path, base_url: str, *arguments: str) -> Said:
    """Write a batch file for products.csv."""
    (directory / "products.csv").write_text(PRODUCTS)
    return batchrun("init", "products.csv", "--api-url", base_url, *arguments, cwd=directory, environ=ENVIRON)


def test_the_written_file_passes_the_plan(tmp_path, base_url):
    """Columns fill the Actor's properties, the key and the others are kept, and the first input is shown."""
    said = init(tmp_path, base_url, "--task", "local/pages")
    assert (said.code, said.out) == (0, "products.toml\n"), said
    assert '"startUrls":[{"url":"https://example.com/1"}]' in said.err
    assert "checked   2 jobs: valid" in said.err
    assert "meta      SKU, Note: copied into each record" in said.err
    written = tomllib.loads((tmp_path / "products.toml").read_text())
    assert written["jobs"] == {
        "file": "products.csv",
        "key": "{{SKU}}",
        "meta": ["SKU", "Note"],
        "template": {"startUrls": [{"url": "{{Product URL}}"}], "maxRequestsPerCrawl": "{{Max Pages:int}}"},
    }
    planned = batchrun("plan", "products.toml", cwd=tmp_path, environ=ENVIRON)
    assert planned.code == 0, planned
    assert "inputs    all are valid" in planned.out


def test_a_file_as_excel_writes_it_is_read(tmp_path, base_url):
    """Not UTF-8, semicolons, a name in two lines: the encoding is said, and written down for `run`."""
    text = 'SKU;Product URL;"Größe\nin cm"\r\na;https://example.com/1;groß\r\nb;https://example.com/2;klein\r\n'
    (tmp_path / "list.csv").write_bytes(text.encode("cp1252"))
    arguments = ("init", "list.csv", "--api-url", base_url, "--task", "local/pages")
    said = batchrun(*arguments, cwd=tmp_path, environ=ENVIRON)
    assert (said.code, said.out) == (0, "list.toml\n"), said
    assert "encoding  not UTF-8, so read as cp1252" in said.err
    assert "meta      SKU, Größe in cm: copied into each record\n" in said.err
    jobs = tomllib.loads((tmp_path / "list.toml").read_text())["jobs"]
    assert (jobs["encoding"], jobs["meta"]) == ("cp1252", ["SKU", "Größe\nin cm"])


def test_nothing_is_overwritten(tmp_path, base_url):
    """Exit 2, and the file is as it was."""
    (tmp_path / "products.toml").write_text("mine")
    said = init(tmp_path, base_url, "--task", "local/pages")
    assert said.code == 2, said
    assert "products.toml: exists, and is not overwritten" in said.err
    assert (tmp_path / "products.toml").read_text() == "mine"


def test_without_a_task_the_tasks_of_the_account_are_listed(tmp_path, base_url):
    """Exit 2 where nobody can be asked; nothing is written."""
    said = init(tmp_path, base_url)
    assert (said.code, said.err) == (2, "batchrun: give --task. The account has:\n  local/pages\n"), said
    assert not (tmp_path / "products.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--map", "startUrls=Nope"], "there is no such column; there are SKU, Product URL, Max Pages, Note, @key\n"),
        (["--map", "nope=SKU"], "no such property; the input has startUrls, "),
        (["--map", "startUrls=@key"], "no property takes this column: batchrun's own begin with"),
        (["--map", "nope"], "write it as PROPERTY=COLUMN"),
        (["--set", "limits.drain_s=1"], "other keys go into the batch file that init writes"),
        (["--set", "jobs.format=xml"], "give one of jsonl, json, csv, tsv"),
        (["--actor", "local/nope"], "no Actor 'local/nope' for this token. The account has "),
    ],
)
def test_what_is_not_known_is_named(tmp_path, base_url, arguments, message):
    """Exit 2 or 5; nothing is written."""
    task = [] if "--actor" in arguments else ["--task", "local/pages"]
    said = init(tmp_path, base_url, *task, *arguments)
    assert (said.code, message in said.err) == (5 if not task else 2, True), said
    assert not (tmp_path / "products.toml").exists()


def test_without_a_token_the_way_without_an_account_is_named(tmp_path):
    """And what the message names works as it stands in the README."""
    (tmp_path / "products.csv").write_text("URL\nhttps://example.com\n")
    asked = ("init", "products.csv", "--actor", "batchrun/page-scraper")
    said = batchrun(*asked, cwd=tmp_path)
    assert (said.code, "Without an account: `--api-url embedded`" in said.err) == (2, True), said
    assert batchrun(*asked, "--api-url", "embedded", cwd=tmp_path).code == 0


def test_a_title_above_the_names_is_not_a_file_without_jobs(tmp_path):
    """As spreadsheet programs write it, with an empty cell for each column; nothing is asked of the platform."""
    (tmp_path / "products.csv").write_text("Products 2026;;\n;;\nSKU;URL;Pages\n1;https://example.com;2\n")
    said = batchrun("init", "products.csv", "--task", "a~b", cwd=tmp_path, environ=ENVIRON)
    assert said.code == 2
    assert said.err == (
        "batchrun: products.csv: no line is a job; line 3: has 3 cells where the header names 1 column; the first line"
        " must hold the names of the columns: delete the lines above them\n"
    )


def test_a_line_that_would_fail_is_shown(tmp_path, base_url):
    """Exit 2, with the written file and the line."""
    (tmp_path / "jobs.csv").write_text("url,requestTimeoutSecs\nhttps://example.com/1,0\n")
    said = batchrun("init", "jobs.csv", "--task", "local/pages", "--api-url", base_url, cwd=tmp_path, environ=ENVIRON)
    assert (said.code, said.out) == (2, "jobs.toml\n"), said
    assert "line 2: Field input.requestTimeoutSecs must be >= 1" in said.err
    assert "next      mend jobs.toml or the lines, then batchrun plan jobs.toml; to start over, delete" in said.err


def test_several_urls_in_a_cell_become_objects(tmp_path, base_url):
    """As the property's editor wants them, though its type says only that it is a list."""
    (tmp_path / "jobs.csv").write_text("links\nhttps://example.com/1 | https://example.com/2\n")
    said = batchrun("init", "jobs.csv", "--task", "local/pages", "--api-url", base_url, cwd=tmp_path, environ=ENVIRON)
    assert said.code == 0, said
    assert '"startUrls":[{"url":"https://example.com/1"},{"url":"https://example.com/2"}]' in said.err


def test_a_batch_of_an_actor_of_ones_own_needs_no_account(tmp_path):
    """The embedded server, an Actor's directory, JSON lines: the written file runs."""
    made = batchrun("actors", "new", "greeter", cwd=tmp_path)
    assert made.code == 0, made
    (tmp_path / "people.jsonl").write_text('{"name": "Ann"}\n')
    said = batchrun("init", "people.jsonl", "--actors", "greeter", cwd=tmp_path)
    assert (said.code, said.out) == (0, "people.toml\n"), said
    assert "local/greeter" in said.err
    assert batchrun("plan", "people.toml", cwd=tmp_path).code == 0


def test_at_a_terminal_it_asks_what_it_cannot_know(tmp_path, base_url):
    """Which task, and which of two columns that fit equally; a name in two lines begins no line of its own."""
    (tmp_path / "links.csv").write_text('Shop URL,"Supplier\nURL"\nhttps://a.example/1,https://b.example/1\n')
    said = _at_a_terminal(tmp_path, base_url, ["links.csv"], b"1\n2\n")
    assert b"Which task?" in said
    assert b"1 Shop URL  2 Supplier URL\r\nWhich column fills startUrls?" in said
    written = tomllib.loads((tmp_path / "links.toml").read_text())
    assert written["task"] == {"id": "local~pages"}
    assert written["jobs"]["template"] == {"startUrls": [{"url": '{{"Supplier\nURL"}}'}]}


def test_a_required_property_is_asked_for(tmp_path):
    """Only columns that can fill it are offered; one URL for all lines becomes the list of objects that is wanted."""
    assert batchrun("actors", "new", "shop", cwd=tmp_path).code == 0
    schema = next((tmp_path / "shop").rglob("input_schema.json"))
    links = {"type": "array", "title": "Pages", "description": "x", "editor": "requestListSources"}
    required = ["startUrls", "undefined"]
    schema.write_text(
        json.dumps(
            {
                "title": "t",
                "type": "object",
                "schemaVersion": 1,
                "properties": {"startUrls": links},
                "required": required,
            }
        )
    )
    (tmp_path / "jobs.csv").write_text("@key,Note\na,x\nb,y\n")
    said = _at_a_terminal(tmp_path, None, ["jobs.csv", "--actors", "shop"], b"=https://example.com\n1\n")
    assert b"1 Note" in said
    written = tomllib.loads((tmp_path / "jobs.toml").read_text())
    assert written["input"] == {"startUrls": [{"url": "https://example.com"}]}
    assert written["jobs"]["template"] == {"undefined": "{{Note}}"}


def _at_a_terminal(directory: Path, base_url: str | None, arguments: list[str], typed: bytes) -> bytes:
    """Return what init says to a person who types this."""
    ours, theirs = pty.openpty()
    api = ["--api-url", base_url] if base_url else []
    with subprocess.Popen(
        [sys.executable, "-m", "batchrun", "init", *arguments, *api],
        cwd=directory,
        env={**os.environ, **ENVIRON, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        os.write(ours, typed)
        said = b""
        while piece := _read(ours):
            said += piece
        assert process.wait(60) == 0, said.decode()
    os.close(ours)
    return said


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the process has closed its end
        return b""
