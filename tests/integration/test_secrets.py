"""Secret fields of inputs: the Actor gets them, and nothing that batchrun shows or writes holds them."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.command_line import batchrun, serving
from tests.support.json_lines import read_lines

#: Of the line, of an object in the line, of the task's input, of the schema's default.
SECRETS = SECRET, NESTED, OF_TASK, DEFAULT = "hunter2-SECRET", "nested-SECRET", "task-SECRET", "default-SECRET"
SCHEMA = {
    "title": "i",
    "type": "object",
    "schemaVersion": 1,
    "properties": {
        "licence": {"title": "l", "description": "d", "type": "string", "editor": "textfield", "isSecret": True},
        "apiKey": {"title": "k", "description": "d", "type": "string", "editor": "textfield", "isSecret": True},
        "pass": {
            "title": "p",
            "description": "d",
            "type": "string",
            "editor": "textfield",
            "isSecret": True,
            "default": DEFAULT,
        },
        "login": {
            "title": "o",
            "description": "d",
            "type": "object",
            "editor": "json",
            "properties": {"word": {"type": "string", "isSecret": True}},
        },
    },
}
#: Shows all it knows in its log and status message, then fails, unless it is to succeed; exit code 7 means that it got
#: the secrets.
ACTOR = f"""
import json, os, urllib.request
def ask(method, path, body=None):
    headers = {{"Authorization": "Bearer " + os.environ["APIFY_TOKEN"], "Content-Type": "application/json"}}
    url = os.environ["APIFY_API_BASE_URL"].rstrip("/") + path
    return urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method)).read()
store = os.environ["ACTOR_DEFAULT_KEY_VALUE_STORE_ID"]
given = json.loads(ask("GET", "/v2/key-value-stores/" + store + "/records/INPUT"))
print("my input is", given, flush=True)
said = {{"statusMessage": "cannot log in with " + str(given), "isStatusMessageTerminal": True}}
ask("PUT", "/v2/actor-runs/" + os.environ["ACTOR_RUN_ID"], json.dumps(said).encode())
wanted = {SECRETS!r} if "licence" in given else {(OF_TASK,)!r} if "note" in given else {SECRETS[:3]!r}
raise SystemExit((0 if "note" in given else 7) if all(each in str(given) for each in wanted) else 8)
"""

#: Commands that show a batch, or write something about it.
COMMANDS = [
    ("failures", "out"),
    ("failures", "out", "--json"),
    ("report", "out"),
    ("status", "out"),
    ("retry", "out", "--dry-run"),
]


def in_order(out: Path) -> list[Any]:
    """Return the records, that of the last line first."""
    return sorted(read_lines(out / "records.jsonl"), key=lambda record: -record["line"])


def messages_in(out: Path) -> list[str]:
    return [record["run"]["statusMessage"] for record in in_order(out)]


def emptied(out: Path) -> str:
    """Return the name of an output directory whose records are lost now."""
    (out / "records.jsonl").write_bytes(b"")
    return out.name


@pytest.mark.parametrize("has_schema", [True, False])
def test_secret_fields_are_sent_and_never_shown(tmp_path, has_schema):
    """By the Actor's schema, and without one by the names of fields: in files, failures, report, logs, messages."""
    folder = tmp_path / "actors/worker"
    (folder / ".actor").mkdir(parents=True)
    definition = {"actorSpecification": 1, "name": "worker", "version": "0.1"}
    given = {**definition, "input": SCHEMA} if has_schema else definition
    (folder / ".actor/actor.json").write_bytes(orjson.dumps(given))
    (folder / "__main__.py").write_text(ACTOR)
    names = ("licence", "word") if has_schema else ("password", "apiKey")
    job = {"@key": "fails", names[0]: SECRET, "login": {names[1]: NESTED, "user": "me"}}
    work = tmp_path / "work"
    work.mkdir()
    (work / "jobs.jsonl").write_bytes(orjson.dumps(job) + b'\n{"note":"succeeds"}\n')
    environ = {"APIFY_TOKEN": "t"}
    with serving(tmp_path / "server", "t", "--actors", str(tmp_path / "actors")) as url:
        key = orjson.dumps({"apiKey": OF_TASK}).decode()
        create = ("task", "create", "--actor", "local/worker", "--name", "shop", "--input", key, "--api-url", url)
        assert batchrun(*create, cwd=work, environ=environ).code == 0
        flags = ("--task", "~shop", "--jobs", "jobs.jsonl", "--out", "out", "--api-url", url)
        ran = batchrun("run", *flags, "--set", "retry.max_attempts=1", cwd=work, environ=environ)
        said = [ran, *(batchrun(*command, cwd=work) for command in COMMANDS)]
        said.append(batchrun("plan", *flags, cwd=work, environ=environ))
        records, messages = (work / "out/records.jsonl").read_bytes(), messages_in(work / "out")
        said.append(batchrun("repair", emptied(work / "out"), cwd=work, environ=environ))
        assert messages_in(work / "out") == messages
        jobs = (work / "jobs.jsonl").read_bytes()
        (work / "jobs.jsonl").write_bytes(jobs.replace(SECRET.encode(), SECRET[::-1].encode()))
        said.append(batchrun("repair", emptied(work / "out"), cwd=work, environ=environ))
        assert messages_in(work / "out") == [messages[0], "***"]
        (work / "out/records.jsonl").write_bytes(records)
    succeeded, failed = in_order(work / "out")
    assert (failed["run"]["exitCode"], succeeded["outcome"]) == (7, "succeeded"), (failed, succeeded)
    assert "cannot log in with" in failed["error"]["message"]
    assert "cannot log in with" in succeeded["run"]["statusMessage"]
    for each in said:
        assert [secret for secret in SECRETS if secret in each.out + each.err] == []
    assert '"***"' in said[1].out
    files = [file for file in (work / "out").rglob("*") if file.is_file()]
    assert {"report.html", "batch.log", "ledger.sqlite3"} <= {file.name for file in files}
    assert any(b"my input is" in file.read_bytes() for file in files if file.suffix == ".log")
    telling = [file for file in files if any(text.encode() in file.read_bytes() for text in SECRETS)]
    assert telling == []
