"""`batchrun worker submit|list|status|…`: real processes that call a worker process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api_process import ACTOR
from tests.support.command_line import Said, batchrun
from tests.support.crash import Api, open_api, wait_until
from tests.support.json_lines import to_lines
from tests.support.worker_process import WorkerProcess

#: Duration of Runs that end only by an abort: longer than any test.
LONG_MS = 600_000


class Shell:
    """A worker, and a directory in which commands run."""

    def __init__(self, path: Path, worker: WorkerProcess, api: Api) -> None:
        self.path, self.worker, self.api = path, worker, api

    def call(self, *arguments: str, stdin: str | None = None, **environ: str) -> Said:
        """Run a command to its end."""
        return batchrun(
            "worker", *arguments, "--data", str(self.worker.data_dir), cwd=self.path, environ=environ, stdin=stdin
        )

    def write(self, name: str, jobs: Sequence[dict[str, Any]], settings: str = "") -> str:
        """Write a batch file and its job file; return the batch file's name."""
        (self.path / f"{name}.jsonl").write_bytes(to_lines(jobs))
        (self.path / f"{name}.toml").write_text(
            f'[task]\nactor = "{ACTOR}"\nname = "{name}"\noptions = {{ memory_mb = 128 }}\n'
            f'[jobs]\nfile = "{name}.jsonl"\n{settings}'
        )
        return f"{name}.toml"

    def status(self, ref: str) -> dict[str, Any]:
        """Return the status of a batch, as JSON."""
        said = self.call("status", ref, "--json")
        assert said.code == 0, said.err
        view: dict[str, Any] = orjson.loads(said.out)
        return view


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Iterator[Shell]:
    """One worker for all tests; each test uses other names of batches."""
    path = tmp_path_factory.mktemp("shell")
    with open_api(path / "api") as api:
        worker = WorkerProcess(path / "data", api.base_url, '[notify]\nevents = []\ncommand = ["false", "s3cret"]\n')
        with worker.running():
            yield Shell(path, worker, api)


def test_a_batch_file_is_submitted_with_its_job_file_and_waited_for(shell):
    """Its relative paths stay valid in the worker's directory; stdout is the id, the exit code that of `run`."""
    (shell.path / "item.json").write_text('{"type": "object", "required": ["n"]}')
    file = shell.write("good", [{"n": n} for n in range(5)], '[output]\nexpect_item_schema = "item.json"\n')
    said = shell.call("submit", file, "--wait")
    assert said.code == 0, said.err
    assert shell.status("good")["id"] == said.out.strip()
    assert "5 of about 5 done: 5 succeeded" in said.err
    records = shell.call("records", "good")
    written = Path(shell.status("good")["out_dir"]) / "records.jsonl"
    assert records.out == written.read_text()
    assert len(records.out.splitlines()) == 5
    assert len(shell.call("items", "good").out.splitlines()) == 5
    assert '"batch_rests"' in shell.call("logs", "good", "--follow").out


def test_a_profile_takes_a_job_file_from_stdin(shell):
    """--set overrides the profile."""
    shell.write("profile", [{"n": 0}])
    (shell.path / "profile.toml").replace(shell.worker.data_dir / "profiles" / "shop.toml")
    jobs = '{"n": 1}\n{"n": 2, "fails": true}\n{"n": 3}\n'
    said = shell.call(
        "submit", "--profile", "shop", "--jobs", "-", "--name", "from stdin", "--weight", "2", "--priority", "-1",
        "--set", "retry.max_attempts=1", "--wait", "--json", stdin=jobs,
    )  # fmt: skip
    assert said.code == 1, said.err
    view = orjson.loads(said.out)
    assert (view["profile"], view["name"], view["weight"], view["priority"]) == ("shop", "from stdin", 2, -1)
    assert view["outcomes"] == {"succeeded": 2, "failed": 1}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "give either a batch's TOML file, or --profile and --jobs"),
        (["--profile", "shop"], "--profile and --jobs"),
        (["bad.toml", "--profile", "shop"], "either"),
        (["missing.toml"], "missing.toml: there is no such file"),
        (["bad.toml"], "limits.max_concurent_runs: is not a known key; did you mean limits.max_concurrent_runs?"),
        (["fine.toml", "--jobs", "nowhere.csv"], "nowhere.csv"),
        (["fine.toml", "--weight", "0"], "weight"),
        (["fine.toml", "--set", "limits"], "write it as section.key=value"),
        (["--profile", "../token", "--jobs", "fine.jsonl"], "there is no profile '../token'"),
        (["fine.toml", "--jobs", "fine.toml"], "is not a job file"),
    ],
)
def test_an_invalid_submission_is_refused(shell, arguments, word):
    """Exit 2, a line that names the error, and no batch submitted."""
    shell.write("fine", [{"n": 1}])
    shell.write("bad", [{"n": 1}], "[limits]\nmax_concurent_runs = 3\n")
    before = len(shell.worker.batches())
    said = shell.call("submit", *arguments)
    assert said.code == 2, said
    assert word in said.err
    assert "Traceback" not in said.err
    assert len(shell.worker.batches()) == before


def test_the_same_submitted_twice_runs_once(shell):
    """By content and name: the batch there is is shown, and waited for; --again and other content are new batches."""
    file = shell.write("twice", [{"n": 1}])
    first = shell.call("submit", file)
    for flags in (("--wait",), ("--weight", "3"), ()):
        again = shell.call("submit", file, *flags)
        assert (again.code, again.out) == (0, first.out), again.err
        assert "This was submitted before, with the same content and name; --again" in again.err
    assert "1 of about 1 done: 1 succeeded" in shell.call("submit", file, "--wait").err
    sets = ("--set", "limits.start_rate=5"), ("--set", "retry.max_attempts=1")
    others = [
        shell.call("submit", file, "--again"),
        shell.call("submit", file, *sets[0], *sets[1]),
        shell.call("submit", file, "--name", "other"),
    ]
    assert shell.call("submit", file, *sets[1], *sets[0]).out == others[1].out, "in any order"
    others.append(shell.call("submit", shell.write("twice", [{"n": 2}])))
    assert len({first.out, *(said.out for said in others)}) == 5, [said.err for said in others]
    names = [shell.status(said.out.strip())["name"] for said in others]
    assert names == ["twice-2", "twice-3", "other", "twice-4"]


def test_a_plan_is_shown_before_anything_is_submitted(shell):
    """By the worker, with its token; lines that would fail, and a question without a terminal, submit nothing."""
    file = shell.write("planned", [{"n": n} for n in range(3)])
    shown = shell.call("plan", file, "--show", "1")
    assert shown.code == 0, shown.err
    assert "jobs      3" in shown.out
    assert 'input     line 1: {"n":0}' in shown.out
    assert orjson.loads(shell.call("plan", file, "--json").out)["would_fail"] is False
    asked = shell.call("submit", file, "--plan")
    assert (asked.code, "There is no terminal to ask at: --yes submits it" in asked.err) == (2, True)
    (shell.path / "broken.jsonl").write_text('{"n": 1}\nnothing\n')
    broken = shell.call("submit", file, "--jobs", "broken.jsonl", "--plan", "--yes")
    assert (broken.code, "nothing was submitted: lines of the job file would fail" in broken.err) == (2, True)
    assert "planned" not in shell.worker.batches()
    submitted = shell.call("submit", file, "--plan", "--yes", "--wait")
    assert (submitted.code, "jobs      3" in submitted.err) == (0, True), submitted.err


def test_an_interrupted_wait_says_that_the_batch_goes_on(shell):
    """Exit 130, and the commands that show and stop it."""
    file = shell.write("waited", [{"n": 1, "ms": LONG_MS}])
    command = [
        sys.executable,
        "-m",
        "batchrun",
        "worker",
        "submit",
        file,
        "--wait",
        "--data",
        str(shell.worker.data_dir),
    ]
    with subprocess.Popen(command, cwd=shell.path, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert "waited" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(30) == 130
        said = waiting.stderr.read()
    batch_id = shell.status("waited")["id"]
    where = f"--data {shell.worker.data_dir}"
    assert f"waited ({batch_id}) goes on in the worker: `batchrun worker status {batch_id} {where}` shows it" in said
    assert f"`batchrun worker cancel {batch_id} {where}` stops it" in said
    assert shell.call("cancel", batch_id).code == 0


def test_failures_cost_and_report_are_those_of_the_batchs_directory(shell):
    """By HTTP, without a token here; and each cause comes with the command that retries it."""
    jobs = [{"@key": f"k{n}", "@group": "ab"[n % 2], "n": n, "fails": n < 3} for n in range(6)]
    said = shell.call("submit", shell.write("partly", jobs, "[retry]\nmax_attempts = 1\n"), "--wait")
    assert said.code == 1, said.err
    out_dir = shell.status("partly")["out_dir"]
    assert shell.call("failures", "partly", "--json").out == batchrun("failures", out_dir, "--json", cwd=shell.path).out
    shown = shell.call("failures", "partly").out
    (cause,) = orjson.loads(shell.call("failures", "partly", "--json").out)["failures"]
    retry = f"batchrun worker retry partly --data {shell.worker.data_dir}"
    assert f"  retry  {retry} --failure {cause['id']}\n" in shown
    assert f"3 in all: {retry}\n" in shown
    for flags in ((), ("--by", "group,outcome"), ("--by", "day", "--csv")):
        told = shell.call("cost", "partly", *flags)
        assert (told.code, told.out) == (0, batchrun("cost", out_dir, *flags, cwd=shell.path).out)
    dry = shell.call("retry", "partly", "--failure", cause["id"], "--dry-run")
    assert dry.out.splitlines()[0] == "3 jobs would be retried:"
    again = shell.call("retry", "partly", "--key", "k0", "--key", "k5", "--wait")
    assert (again.code, again.out) == (1, said.out), again.err
    assert "Retrying 1 job\n" in again.err
    nothing = shell.call("retry", "partly", "--key", "k5", "--wait", "--json")
    assert (nothing.code, orjson.loads(nothing.out)["state"]) == (0, "finished")
    assert "Nothing to retry: no job matches (3 succeeded, 3 failed)" in nothing.err
    assert "--key k9: no job of this batch has it" in shell.call("retry", "partly", "--key", "k9").err
    assert "--by nope: give group, day, outcome" in shell.call("cost", "partly", "--by", "nope").err
    assert shell.call("report", "partly").code == 0
    page = (shell.path / f"{said.out.strip()}.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert shell.call("report", "partly", "--out", "-").out.startswith("<!DOCTYPE html>")
    assert "batch.toml: a report is HTML" in shell.call("report", "partly", "--out", "batch.toml").err


def test_a_batch_is_paused_resumed_limited_cancelled_and_deleted(shell):
    """Each command shows the batch's new state, or why the order is impossible."""
    shell.call("submit", shell.write("long", [{"n": n, "ms": LONG_MS} for n in range(6)]), "--set",
              "limits.max_concurrent_runs=2")  # fmt: skip
    wait_until(lambda: shell.status("long")["live_runs"] == 2)
    changes = ("--set", "max_concurrent_runs=4", "--set", "weight=3", "--set", "start_rate=12.5")
    said = shell.call("limits", "long", *changes)
    assert (said.code, said.out.splitlines()[:4]) == (
        0,
        ["weight               3.0", "priority             0", "max_concurrent_runs  4", "start_rate           12.5"],
    )
    wait_until(lambda: shell.status("long")["live_runs"] == 4)
    assert shell.call("delete", "long").code == 2
    assert "pausing" in shell.call("pause", "long").err
    assert shell.call("resume", "long").code == 0
    several = shell.call("cancel", "nope", "long")
    assert several.code == 2
    assert "there is no batch 'nope'; `batchrun worker list` shows those that there are" in several.err
    assert "there is no batch 'lnog'; did you mean 'long'?" in shell.call("status", "lnog").err
    assert "long (" in several.err
    wait_until(lambda: shell.status("long")["state"] == "cancelled")
    assert shell.status("long")["outcomes"] == {"aborted": 4}
    assert "cancelled" in shell.call("list", "--state", "cancelled").out
    shown = shell.call("limits", "long")
    assert "is cancelled: its limits are shown while it is open" in shown.err
    changed = shell.call("limits", "long", "--set", "max_concurrent_runs=3")
    assert "is cancelled: the change is kept for when it runs again" in changed.err, changed
    assert "none" not in shown.out
    assert shell.call("delete", "long").code == 0
    assert shell.call("status", "long").code == 2


def test_who_is_notified_is_shown_and_tested_by_the_worker(shell):
    """The worker has the secrets, not the shell; a test that is not taken is said with its reason."""
    shown = shell.call("notify")
    assert (shown.code, shown.out.splitlines()[0]) == (0, "command  false")
    tested = shell.call("notify", "--test")
    assert (tested.code, tested.out.splitlines()[0]) == (6, "command  false: false ended with code 1")
    assert "s3cret" not in f"{shown}{tested}"


def test_limits_of_all_batches_are_shown_and_changed(shell):
    """A change says how long it holds; an invalid one changes nothing."""
    shown = shell.call("limits")
    assert ("budget_usd            none" in shown.out, shown.err) == (True, "")
    changed = shell.call("limits", "--set", "budget_usd=5")
    assert "budget_usd            5" in changed.out
    assert "hold until the worker starts again" in changed.err
    assert "budget   $5.00" in shell.call("status").out
    wrong = shell.call("limits", "--set", "budget_usd=-5")
    assert (wrong.code, "budget_usd" in wrong.err) == (2, True)
    unknown = shell.call("limits", "--set", "max_concurent_runs=3")
    assert "max_concurent_runs: is not a known key; did you mean max_concurrent_runs?" in unknown.err
    assert orjson.loads(shell.call("limits", "--set", "budget_usd=none", "--json").out)["budget_usd"] is None


def test_command_line_http_and_metrics_show_the_same_numbers(shell):
    """All of them read the same views."""
    shell.call("submit", shell.write("numbers", [{"n": n, "items": 3} for n in range(4)]), "--wait")
    shell.call("submit", shell.write("held", [{"n": n, "ms": LONG_MS} for n in range(3)]))
    wait_until(lambda: shell.status("held")["live_runs"] == 3)
    for ref in ("numbers", "held"):
        assert orjson.loads(shell.worker.ask(f"/v1/batches/{ref}")[1]) == shell.status(ref)
    families = text_string_to_metric_families(shell.worker.ask("/metrics")[1].decode())
    samples = {(each.name, each.labels.get("batch")): each.value for family in families for each in family.samples}
    held = shell.status("held")
    assert samples["batchrun_batch_live_runs", held["id"]] == held["live_runs"] == 3
    worker = orjson.loads(shell.call("status", "--json").out)
    assert worker == orjson.loads(shell.worker.ask("/v1/worker")[1])
    assert samples["batchrun_live_runs", None] == worker["live_runs"] == 3
    assert samples["batchrun_slots_used", None] == worker["slots"]["used"]
    page = orjson.loads(shell.call("list", "--json").out)
    assert page == orjson.loads(shell.worker.ask("/v1/batches")[1])
    shell.call("cancel", "held")
    wait_until(lambda: shell.status("held")["state"] == "cancelled")


def test_records_are_followed_across_a_restart_of_the_worker(tmp_path):
    """The reader reports that it waits, continues at its offset, and ends with the batch: each record once."""
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, "[limits]\nmax_concurrent_runs = 2\n")
        shell = Shell(tmp_path, worker, api)
        followed, go_on = tmp_path / "followed.jsonl", tmp_path / "go-on"
        with worker.running() as process:
            late = [{"n": n, "until": str(go_on)} for n in range(2, 12)]
            shell.call("submit", shell.write("slow", [{"n": 0}, {"n": 1}, *late]))
            command = [sys.executable, "-m", "batchrun", "worker", "records", "slow", "--follow"]
            with followed.open("wb") as out:
                reader = subprocess.Popen(
                    [*command, "--data", str(worker.data_dir)], stdout=out, stderr=subprocess.PIPE, env=os.environ
                )
            wait_until(lambda: len(followed.read_bytes().splitlines()) >= 2)
            process.send_signal(signal.SIGKILL)
            process.wait()
        with reader:
            assert reader.stderr is not None
            # A worker that is slow to answer is reported first.
            assert any(b"waiting until it is back" in line for line in reader.stderr)
            go_on.touch()
            with worker.running():
                assert reader.wait(60) == 0
        (batch,) = worker.batches().values()
        records = worker.data_dir / "batches" / batch["id"] / "out" / "records.jsonl"
        assert followed.read_bytes() == records.read_bytes()
        assert len(api.runs()) == len(followed.read_bytes().splitlines()) == 12


def test_without_a_worker_a_command_says_what_to_do(tmp_path):
    """No worker was ever started, a worker has stopped, the token is missing, another server answers."""
    never = batchrun("worker", "list", cwd=tmp_path)
    assert (never.code, "no worker was ever started here" in never.err) == (2, True)
    assert batchrun("worker", "list", "--url", "http://127.0.0.1:1", cwd=tmp_path).code == 2
    environ = {"BATCHRUN_WORKER_TOKEN": "wrong"}
    gone = batchrun("worker", "list", "--url", "http://127.0.0.1:1", cwd=tmp_path, environ=environ)
    assert gone.code == 6
    assert "does not answer (Connection refused); if it has stopped, `batchrun worker start` resumes it" in gone.err
    assert batchrun("worker", "list", "--url", "nowhere", cwd=tmp_path, environ=environ).code == 2
    with open_api(tmp_path / "api") as api:
        other = batchrun("worker", "list", "--url", api.base_url, cwd=tmp_path, environ=environ)
    assert (other.code, other.err.count("\n")) == (2, 1)


def test_a_wrong_token_is_reported(shell):
    """Exit 2, and the message does not contain the token."""
    environ = {"BATCHRUN_WORKER_TOKEN": "a-wrong-token"}
    said = batchrun("worker", "list", "--url", shell.worker.address, cwd=shell.path, environ=environ)
    assert (said.code, "refuses this token" in said.err) == (2, True)
    assert "a-wrong-token" not in said.err
