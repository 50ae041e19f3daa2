"""The command line in real processes: output and exit codes."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchrun.account import connect
from tests.support.command_line import batchrun, serving
from tests.support.json_lines import read_lines
from tests.support.server_api import ACTORS

ROOT = Path(__file__).parents[2]
BATCH = """
[api]
base_url = "embedded"
[task]
actor = "apify/hello-world"
name = "hello"
[jobs]
file = "jobs.jsonl"
"""


def _write(directory: Path, *, batch: str = BATCH, jobs: bytes = b'{"a": 1}\n') -> None:
    (directory / "batch.toml").write_text(batch)
    (directory / "jobs.jsonl").write_bytes(jobs)


BAD_BATCHES: dict[str, tuple[str, str]] = {
    "unknown key": (BATCH + "[limits]\nmax_concurent_runs = 3\n", "did you mean limits.max_concurrent_runs?"),
    "unknown section": (BATCH + "[limit]\n", "batch.toml: limit: is not a known key"),
    "syntax error": (BATCH + "[task\n", "batch.toml: is not valid TOML"),
    "wrong type": (BATCH + '[limits]\nstart_rate = "fast"\n', "batch.toml: limits.start_rate: "),
    "negative concurrency": (BATCH + "[limits]\nmax_concurrent_runs = -1\n", "limits.max_concurrent_runs: "),
    "zero rate": (BATCH + "[limits]\nstart_rate = 0.0\n", "limits.start_rate: "),
    "empty task": (BATCH.replace('actor = "apify/hello-world"\nname = "hello"', 'id = ""'), "task.id: "),
    "missing job file": (BATCH.replace("jobs.jsonl", "nope.jsonl"), "nope.jsonl: "),
    "unknown column": (
        BATCH.replace("jobs.jsonl", "jobs.csv") + '[jobs.template]\nurl = "{{nope}}"\n',
        "nope",
    ),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_bad_configuration_is_one_line(tmp_path, name):
    """Exit 2, no traceback, and the line names the error."""
    batch, part = BAD_BATCHES[name]
    _write(tmp_path, batch=batch)
    (tmp_path / "jobs.csv").write_text("a,b\n1,2\n")
    said = batchrun("run", "batch.toml", cwd=tmp_path)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
    assert part in said.err
    assert "Traceback" not in said.err


BAD_FILES = {
    "empty": (b"", "jobs.jsonl: "),
    "only blank lines": (b"\n\n\n", "jobs.jsonl: "),
    "binary garbage": (bytes(range(256)) * 40, "jobs.jsonl"),
    "array as a line": (b"[1, 2]\n", "line 1: "),
    "unknown field": (b'{"@nope": 1}\n', "line 1: "),
    "10 MB line": (b'{"a": "' + b"x" * 10_000_000 + b'"}\n', "line 1: "),
    "not JSON": (b'{"a": 1}\nnope\n', "line 2: "),
    "bad options": (b'{"@options": {"memory_mb": 300}}\n', "line 1: "),
    "same key, other content": (b'{"@key": "k", "a": 1}\n{"@key": "k", "a": 2}\n', "line 2: "),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_job_file_starts_nothing_and_names_the_line(tmp_path, name):
    """Exit 2, no traceback, no output directory."""
    jobs, part = BAD_FILES[name]
    _write(tmp_path, jobs=jobs)
    said = batchrun("run", "batch.toml", cwd=tmp_path)
    assert (said.code, said.out) == (2, ""), said
    assert part in said.err
    assert "Traceback" not in said.err
    assert len(said.err) < 2000
    assert not (tmp_path / "batch.out").exists()


def test_a_missing_batch_file_is_one_line(tmp_path):
    """Exit 2, with what writes one."""
    said = batchrun("run", "nope.toml", cwd=tmp_path)
    advice = "to write one for a job file: batchrun init JOBS --task you~your-task"
    assert (said.code, said.err) == (2, f"batchrun: nope.toml: there is no such file; {advice}\n")


def test_a_batch_named_by_the_wrong_file_is_recognised(tmp_path):
    """A directory in place of the batch file, a batch file in place of the directory: what is meant is said."""
    _write(tmp_path)
    (tmp_path / "batch.out").mkdir()
    for arguments, said in (
        (("run", "batch.out"), "batch.out: is a directory; give the batch's TOML file"),
        (("status", "batch.toml"), "holds no ledger; a batch is named by its output directory, like batch.out"),
        (("run", "--task", "a~b"), "give the job file, too: --jobs FILE"),
        (("run", "--actors", "own"), "give the job file, too: --jobs FILE"),
        (("run", "--jobs", "jobs.jsonl"), "give the task, too: --task user~name, or its id"),
        (("task", "get", "--task", "a~b", "--api-url", "embedded"), "start `batchrun serve`, and give its address"),
        (("status", "shop.out"), "there is no such directory; the first `batchrun run` of a batch makes it"),
        (("run",), "give a batch's TOML file (`batchrun init` writes one), or --task and --jobs"),
    ):
        assert said in batchrun(*arguments, cwd=tmp_path).err


def test_two_tasks_of_one_batch_are_named(tmp_path):
    """One of the file, which describes it, and one of the flag."""
    _write(tmp_path)
    said = batchrun("run", "batch.toml", "--task", "a~b", cwd=tmp_path)
    assert said.code == 2
    assert said.err.startswith("batchrun: batch.toml: describes a task ([task] actor, name), and --task names another")


def test_an_unwritable_output_directory_is_a_local_error(tmp_path):
    """Exit 6, naming the directory."""
    _write(tmp_path)
    (tmp_path / "file").write_text("")
    for out in ("file", "file/out"):
        said = batchrun("run", "batch.toml", "--out", out, cwd=tmp_path)
        way = f"batchrun: {out}: a file is in its way; name another directory (output.dir, --out)\n"
        assert (said.code, said.out, said.err) == (6, "", way), said


@pytest.mark.parametrize("name", ["batch.log", "costs.jsonl"])
def test_a_job_file_to_which_the_batch_would_write_is_refused(tmp_path, name):
    """Lines that are appended are jobs, so those of its own log would never end."""
    _write(tmp_path, batch=BATCH.replace("jobs.jsonl", name) + 'format = "jsonl"\nlimit = 1\n')
    (tmp_path / "jobs.jsonl").rename(tmp_path / name)
    said = batchrun("run", "batch.toml", "--out", ".", cwd=tmp_path)
    assert (said.code, "jobs.file" in said.err, "the batch itself writes a file" in said.err) == (2, True, True), said
    assert {each.name for each in tmp_path.iterdir()} == {"batch.toml", name}
    assert batchrun("run", "batch.toml", "--out", "out", cwd=tmp_path).code == 0


def test_the_status_of_a_finished_batch_agrees_with_its_run(tmp_path):
    """Lines that hold no job are counted as jobs until the file is read."""
    _write(tmp_path, jobs=b'{"a": 1}\n\n\n\n{"a": 1}\n')
    said = batchrun("run", "batch.toml", cwd=tmp_path)
    assert (said.code, "1 succeeded\n" in said.err) == (0, True), said
    status = batchrun("status", "batch.out", cwd=tmp_path)
    skipped = "skipped  1 line with a job of another line\n"
    assert (skipped in said.err, f"jobs     1 succeeded; none left\n{skipped}" in status.out) == (True, True), status


def test_a_missing_token_is_named_before_anything_else(tmp_path):
    """Exit 2, without a wait for the network and without an output directory."""
    _write(tmp_path, batch=BATCH.replace('[api]\nbase_url = "embedded"\n', ""))
    said = batchrun("run", "batch.toml", cwd=tmp_path)
    assert (said.code, said.err.count("\n")) == (2, 1), said
    assert "export APIFY_TOKEN=" in said.err
    assert not (tmp_path / "batch.out").exists()


def test_an_unknown_actor_is_named_with_those_that_there_are(tmp_path):
    """The most similar one first."""
    _write(tmp_path, batch=BATCH.replace("apify/hello-world", "apify/helo-word"))
    said = batchrun("run", "batch.toml", cwd=tmp_path)
    assert said.code == 5, said
    assert "no Actor 'apify/helo-word' for this token. The account has apify/hello-world, batchrun/" in said.err


def test_an_unknown_task_refuses_the_batch(tmp_path):
    """Exit 5, naming the task."""
    _write(tmp_path)
    said = batchrun("run", "--task", "unknown~task", "--jobs", "jobs.jsonl", "--api-url", "embedded", cwd=tmp_path)
    assert said.code == 5, said
    assert "unknown~task" in said.err


def test_a_server_that_does_not_answer_is_named(tmp_path):
    """Exit 6 and a line with the address."""
    _write(tmp_path)
    run = ("run", "batch.toml", "--api-url", "http://127.0.0.1:9")
    soon = {f"{connect.__name__}.PATIENCE_S": 1.0}
    said = batchrun(*run, cwd=tmp_path, environ={"APIFY_TOKEN": "t"}, constants=soon)
    assert said.code == 6, said
    assert "http://127.0.0.1:9 does not answer" in said.err


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    """Leave out ids, times and measurements."""
    run = {name: record["run"][name] for name in ("status", "exitCode", "statusMessage", "options")}
    attempts = [(each["attempt_no"], each["status"]) for each in record["attempts"]]
    kept = ("v", "key", "line", "round", "group", "meta", "outcome", "output", "error")
    return {
        **{name: record[name] for name in kept},
        "items": record["items"]["count"],
        "run": run,
        "attempts": attempts,
    }


def test_the_same_batch_runs_against_a_server_in_another_process(tmp_path):
    """Embedded and served, the records are equal except for ids and times; a wrong token ends with exit 5."""
    lines = (ROOT / "configs/quickstart.csv").read_text().splitlines()[:3]
    (tmp_path / "quickstart.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "quickstart.toml").write_bytes((ROOT / "configs/quickstart.toml").read_bytes())
    embedded = batchrun("run", "quickstart.toml", "--out", "embedded", cwd=tmp_path)
    assert embedded.code == 0, embedded
    with serving(tmp_path / "api", "right") as base_url:
        arguments = ("run", "quickstart.toml", "--out", "served", "--api-url", base_url)
        refused = batchrun(*arguments, cwd=tmp_path, environ={"APIFY_TOKEN": "wrong"})
        assert (refused.code, refused.err.count("\n")) == (5, 1), refused
        assert "token" in refused.err
        served = batchrun(*arguments, "--json", cwd=tmp_path, environ={"APIFY_TOKEN": "right"})
        assert served.code == 0, served
        assert orjson.loads(served.out)["outcomes"] == {"succeeded": 2}
    both = [_records(tmp_path / name) for name in ("embedded", "served")]
    assert both[0] == both[1]
    titles = [orjson.loads(line)["title"] for line in (tmp_path / "served/items.jsonl").read_bytes().splitlines()]
    assert len(titles) == 2
    assert all(title.startswith("Python: ") for title in titles)


def _records(out: Path) -> list[dict[str, Any]]:
    records = read_lines(out / "records.jsonl")
    return sorted(map(_comparable, records), key=lambda record: record["line"])


def test_tasks_are_created_read_and_run(tmp_path):
    """`task create|get|run` print the API's own JSON; `run --sync` prints the OUTPUT value."""
    with serving(tmp_path / "api", "t") as base_url:
        environ = {"APIFY_TOKEN": "t", "BATCHRUN_API__BASE_URL": base_url}
        created = batchrun(
            "task", "create", "--actor", "apify/hello-world", "--name", "hello", cwd=tmp_path, environ=environ
        )
        assert created.code == 0, created
        task_id = orjson.loads(created.out)["id"]
        assert (
            orjson.loads(batchrun("task", "get", "--task", "~hello", cwd=tmp_path, environ=environ).out)["id"]
            == task_id
        )
        started = orjson.loads(batchrun("task", "run", task_id, cwd=tmp_path, environ=environ).out)
        assert started["actorTaskId"] == task_id
        value = batchrun(
            "task", "run", "--task", task_id, "--sync", "--input", '{"x": 1}', cwd=tmp_path, environ=environ
        )
        assert value.code == 0, value
        assert orjson.loads(value.out)
        wrong = batchrun("task", "run", task_id, "--input", "[1]", cwd=tmp_path, environ=environ)
        assert (wrong.code, wrong.err.count("\n")) == (2, 1)
        unknown = batchrun("task", "get", "nope", cwd=tmp_path, environ=environ)
        assert (unknown.code, unknown.err.count("\n")) == (5, 1)


def test_jobs_can_come_from_stdin(tmp_path):
    """`--jobs -` reads JSON lines from stdin; each becomes a record."""
    (tmp_path / "batch.toml").write_text(BATCH.replace("jobs.jsonl", "-"))
    said = batchrun("run", "batch.toml", cwd=tmp_path, stdin='{"a": 1}\n{"a": 2}\n{"a": 1}\n')
    assert said.code == 0, said
    assert "2 succeeded" in said.err
    assert "skipped  1 line with a job of another line" in said.err


def test_more_than_a_hundred_paid_runs_need_a_yes(tmp_path, monkeypatch):
    """On a platform that costs money, without a terminal, nothing is started without --yes."""
    _write(tmp_path, jobs=b"".join(b'{"n": %d}\n' % n for n in range(150)))
    with serving(tmp_path / "api", "t") as base_url:
        # An address of this machine that is not recognised as one, like a paid platform's.
        address = base_url.replace("127.0.0.1", "0.0.0.0")
        environ = {"APIFY_TOKEN": "t", "BATCHRUN_API__ALLOW_PLAIN_HTTP": "true", "no_proxy": "*"}
        said = batchrun("run", "batch.toml", "--api-url", address, cwd=tmp_path, environ=environ)
        assert said.code == 2, said
        assert "Start 150 Runs? There is no terminal to ask at: --yes starts them" in said.err


def test_a_finished_batch_says_so_and_starts_nothing(tmp_path):
    """The same command on a finished batch exits 0; appended lines are new jobs."""
    _write(tmp_path)
    assert batchrun("run", "batch.toml", cwd=tmp_path).code == 0
    again = batchrun("run", "batch.toml", cwd=tmp_path)
    assert again.code == 0
    assert "this batch is finished" in again.err
    (tmp_path / "jobs.jsonl").write_bytes(b'{"a": 1}\n{"a": 2}\n')
    grown = batchrun("run", "batch.toml", cwd=tmp_path)
    assert grown.code == 0
    assert len((tmp_path / "batch.out/records.jsonl").read_bytes().splitlines()) == 2


def test_another_batch_in_the_same_directory_is_refused(tmp_path):
    """Exit 2, naming the changed key or file."""
    _write(tmp_path)
    assert batchrun("run", "batch.toml", cwd=tmp_path).code == 0
    changed = batchrun("run", "batch.toml", "--set", "input.extra=1", cwd=tmp_path)
    assert changed.code == 2
    assert "input: begun with {}, now {'extra': 1}" in changed.err
    (tmp_path / "jobs.jsonl").write_bytes(b'{"a": 7}\n')
    edited = batchrun("run", "batch.toml", cwd=tmp_path)
    assert edited.code == 2
    assert "was changed" in edited.err


def test_closed_streams_do_not_stop_a_batch(tmp_path):
    """With stdin and stderr closed, or stderr piped into `head`, every job runs."""
    _write(tmp_path, jobs=b'{"a": 1}\n{"a": 2}\n')
    run = f"{sys.executable} -m batchrun run batch.toml --out"
    for number, streams in enumerate(("<&- 2>&-", "2>&1 | head -1")):
        shell = ["bash", "-c", f"set -o pipefail; {run} {number} {streams}"]
        done = subprocess.run(shell, cwd=tmp_path, stdout=subprocess.DEVNULL, timeout=60, check=False)
        assert done.returncode == 0
        assert len((tmp_path / f"{number}/records.jsonl").read_bytes().splitlines()) == 2


def test_faults_can_be_injected_into_an_embedded_server(tmp_path):
    """`server.faults`, relative to the batch file: every answer to a start is lost, but no job."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "bad.toml").write_text('[[fault]]\nkind = "drop_answer"\nroutes = ["starts"]\n')
    _write(tmp_path, batch=f'{BATCH}[server]\nfaults = "elsewhere/bad.toml"\n', jobs=b'{"a": 1}\n{"a": 2}\n')
    said = batchrun("run", str(tmp_path / "batch.toml"), "--json", cwd=tmp_path / "elsewhere")
    assert (said.code, orjson.loads(said.out)["outcomes"]) == (0, {"succeeded": 2}), said
    out = tmp_path / "elsewhere" / "batch.out"
    assert {len(record["attempts"]) for record in _records(out)} == {1}
    assert (out / "batch.log").read_text().count('"event":"run_adopted"') == 2


@pytest.mark.parametrize(
    ("route", "budget"),
    [("GET /v2/actor-builds/*", ""), ("GET /v2/users/me/usage/monthly", "[limits]\nbudget_usd = 1\n")],
)
def test_a_request_without_an_answer_does_not_hold_a_batch_up_in_silence(tmp_path, route, budget):
    """Of the build, or of prices: the wait is named on the terminal and in the log, and ends; nothing was started."""
    (tmp_path / "silent.toml").write_text(f'[[fault]]\nkind = "latency"\nseconds = 60\nroutes = ["{route}"]\n')
    _write(tmp_path, batch=f'{BATCH}[server]\nfaults = "silent.toml"\n{budget}')
    module = "batchrun.account.connect"
    patience = {f"{module}.PATIENCE_S": 0.5, f"{module}.WAITS_NOTED_AFTER_S": (0.2,)}
    said = batchrun("run", "batch.toml", cwd=tmp_path, constants=patience)
    wait = "Waiting for the embedded server (no answer yet)"
    assert (said.code, wait in said.err, "does not answer" in said.err) == (6, True, True), said
    assert '"event":"platform_awaited"' in (tmp_path / "batch.out/batch.log").read_text()
    assert (tmp_path / "batch.out/records.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("faults", "problem"),
    [
        (None, "bad.toml: cannot be read"),
        ('[[fault]]\nkind = "drop_answers"\n', "bad.toml: fault.0.kind: is not a known kind"),
    ],
)
def test_an_invalid_file_of_faults_starts_nothing(tmp_path, faults, problem):
    """Exit 2, naming the file and the key."""
    if faults is not None:
        (tmp_path / "bad.toml").write_text(faults)
    _write(tmp_path, batch=f'{BATCH}[server]\nfaults = "bad.toml"\n')
    said = batchrun("run", "batch.toml", cwd=tmp_path)
    assert (said.code, problem in said.err) == (2, True), said


def test_serve_lists_its_actors_and_accounts(tmp_path):
    """Actors by full name, in one line; accounts with the files of the tokens that it has made."""
    command = [sys.executable, "-m", "batchrun", "serve", "--port", "0", "--data", "state", "--token-file", "token"]
    command += ["--actors", str(ACTORS / "acrobat"), "--account", "alice", "--account-file", "accounts"]
    (tmp_path / "token").write_text("mine\n")
    (tmp_path / "accounts").write_text("# a comment\n\nbob = his\ncarol\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("APIFY_", "BATCHRUN_"))}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        assert process.stderr is not None
        said: dict[str, list[str]] = {}
        while "actors" not in said:
            word, _, rest = process.stderr.readline().strip().partition(" ")
            said.setdefault(word, []).append(rest.strip())
        files = [tmp_path / line.partition(", token: cat ")[2] for line in said["account"]]
        made = [file.read_text().strip() for file in (files[0], files[2])]
        names = [_username(base_url, token) for token in ("mine", made[0], "his", made[1])]
        process.send_signal(signal.SIGHUP)  # as of a terminal that is closed
        assert process.stderr.read().splitlines()[-1].startswith("stopped; ")
    assert names == ["local", "alice", "bob", "carol"]
    assert said["account"][1] == "bob"
    assert "token" not in said
    assert said["page"] == [f"{base_url}/"]
    assert said["actors"] == ["apify/hello-world, batchrun/page-scraper, local/acrobat"]


@pytest.mark.parametrize(
    ("arguments", "content", "problem"),
    [
        (["--account", "bob=hers-7"], "", "--account-file"),
        (["--token", "hers-7"], "", "No such option: --token"),
        (["--token-file", "given"], "\n", "given: must hold a token"),
        (["--token-file", "given"], "hers-7 x", "given: must hold a token"),
        (["--token-file", "hers-7"], "", "the file cannot be read"),
        (["--account-file", "bob=hers-7"], "", "the file cannot be read"),
        (["--account-file", "given"], "alice=a\nbob=\n", "given:2: must hold a token"),
        (["--account-file", "given"], "a/b=hers-7\n", "given:1: must be NAME=TOKEN"),
        (["--account-file", "given"], "bob:hers-7\n", "given:1: must be NAME=TOKEN"),
        (["--account-file", "given"], "apify_api_hers-7\n", "given:1: must be NAME=TOKEN"),
        (["--account-file", "given"], "alice=hers-7\nbob=hers-7\n", "its own token"),
    ],
)
def test_serve_takes_tokens_from_files_only(tmp_path, arguments, content, problem):
    """Exit 2, with what is wrong; no token is shown."""
    (tmp_path / "given").write_text(content)
    said = batchrun("serve", "--port", "0", "--data", "state", *arguments, cwd=tmp_path)
    assert (said.code, problem in said.err) == (2, True), said
    assert "hers-7" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("worker", "list", "--url", "http://127.0.0.1:1/?token=hers-7"),
        ("worker", "list", "--url", "http://127.0.0.1:1/#hers-7"),
        ("status", "nats://127.0.0.1:1/shop?token=hers-7"),
        ("task", "run", "--task", "x", "--input", "@hers-7"),
    ],
    ids=["worker-query", "worker-fragment", "log", "input"],
)
def test_a_secret_in_a_wrong_place_is_not_shown(tmp_path, arguments):
    """Exit 2, with what belongs there."""
    said = batchrun(*arguments, cwd=tmp_path, environ={"APIFY_TOKEN": "t", "BATCHRUN_WORKER_TOKEN": "t"})
    assert (said.code, "hers-7" in said.out + said.err) == (2, False), said


@pytest.mark.parametrize("name", ["index.html", "token"])
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_directory_of_something_else_is_left_alone(tmp_path, name, command):
    """It would be closed to other users, and the person's file `token` be the server's or the worker's."""
    (tmp_path / "site").mkdir(mode=0o755)
    (tmp_path / "site" / name).write_text("my own" * 2000)
    start = {"serve": ["serve"], "worker": ["worker", "start", "--api-url", "embedded"]}[command]
    said = batchrun(*start, "--port", "0", "--data", "site", cwd=tmp_path)
    whose = command.replace("serve", "server")
    assert (said.code, f"site is no {whose}'s: it holds {name}" in said.err) == (2, True), said
    assert [each.name for each in (tmp_path / "site").iterdir()] == [name]
    assert (tmp_path / "site").stat().st_mode & 0o777 == 0o755


def test_run_makes_no_server_of_something_else_in_its_output_directory(tmp_path):
    """A folder `server` is usual in a project."""
    (tmp_path / "project/server").mkdir(mode=0o755, parents=True)
    (tmp_path / "project/server/index.html").touch()
    (tmp_path / "jobs.jsonl").write_text("{}\n")
    run = ("run", "--api-url", "embedded", "--actors", str(ACTORS), "--task", "local/acrobat", "--jobs", "jobs.jsonl")
    said = batchrun(*run, "--out", "project", cwd=tmp_path)
    assert (said.code, "server is no server's: it holds index.html" in said.err, "--out" in said.err) == (2, True, True)
    assert [each.name for each in (tmp_path / "project/server").iterdir()] == ["index.html"]
    assert (tmp_path / "project/server").stat().st_mode & 0o777 == 0o755


def test_serve_takes_no_blank_token_from_its_environment(tmp_path):
    """Anybody could send it."""
    said = batchrun("serve", "--port", "0", "--data", "state", cwd=tmp_path, environ={"APIFY_TOKEN": " "})
    assert (said.code, "APIFY_TOKEN: must hold a token" in said.err) == (2, True), said


def test_serve_takes_its_token_from_stdin(tmp_path):
    """`-`, as elsewhere."""
    said = batchrun("serve", "--port", "0", "--data", "state", "--token-file", "-", cwd=tmp_path, stdin="two words")
    assert (said.code, "<stdin>: must hold a token" in said.err) == (2, True), said


def _username(base_url: str, token: str) -> str:
    request = urllib.request.Request(f"{base_url}/v2/users/me", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(orjson.loads(answer.read())["data"]["username"])
