"""`batchrun worker submit|list|status|…` as a user meets them: processes that talk to a worker process."""

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
from tests.support.worker_process import WorkerProcess

#: Longer than any test: Runs that end only when they are aborted.
LONG_MS = 600_000


class Desk:
    """A worker and the directory in which its people sit."""

    def __init__(self, path: Path, worker: WorkerProcess, api: Api) -> None:
        self.path, self.worker, self.api = path, worker, api

    def call(self, *arguments: str, stdin: str | None = None, **environ: str) -> Said:
        """Run a verb to its end."""
        return batchrun(
            "worker", *arguments, "--data", str(self.worker.data_dir), cwd=self.path, environ=environ, stdin=stdin
        )

    def write(self, name: str, jobs: Sequence[dict[str, Any]], settings: str = "") -> str:
        """Write a batch file and its job file beside it; return the batch file's name."""
        (self.path / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(job) + b"\n" for job in jobs))
        (self.path / f"{name}.toml").write_text(
            f'[task]\nactor = "{ACTOR}"\nname = "{name}"\noptions = {{ memory_mb = 128 }}\n'
            f'[jobs]\nfile = "{name}.jsonl"\n{settings}'
        )
        return f"{name}.toml"

    def status(self, ref: str) -> dict[str, Any]:
        """Return how a batch stands, as JSON."""
        said = self.call("status", ref, "--json")
        assert said.code == 0, said.err
        view: dict[str, Any] = orjson.loads(said.out)
        return view


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Iterator[Desk]:
    """One worker for all tests, each with batches of its own names."""
    path = tmp_path_factory.mktemp("desk")
    with open_api(path / "api") as api:
        worker = WorkerProcess(path / "data", api.base_url)
        with worker.running():
            yield Desk(path, worker, api)


def test_a_batch_file_is_handed_in_with_its_job_file_and_waited_for(desk):
    """Its paths are its own, wherever the worker keeps it; stdout is the id, and the exit code that of `run`."""
    (desk.path / "item.json").write_text('{"type": "object", "required": ["n"]}')
    file = desk.write("good", [{"n": n} for n in range(5)], '[output]\nexpect_item_schema = "item.json"\n')
    said = desk.call("submit", file, "--wait")
    assert said.code == 0, said.err
    assert desk.status("good")["id"] == said.out.strip()
    assert "5 of about 5 done: 5 succeeded" in said.err
    records = desk.call("records", "good")
    written = Path(desk.status("good")["out_dir"]) / "records.jsonl"
    assert records.out == written.read_text()
    assert len(records.out.splitlines()) == 5
    assert len(desk.call("items", "good").out.splitlines()) == 5
    assert '"batch_rests"' in desk.call("logs", "good", "--follow").out


def test_a_profile_takes_a_job_file_from_stdin(desk):
    """The settings given come before the profile's."""
    desk.write("profile", [{"n": 0}])
    (desk.path / "profile.toml").replace(desk.worker.data_dir / "profiles" / "shop.toml")
    jobs = '{"n": 1}\n{"n": 2, "fails": true}\n{"n": 3}\n'
    said = desk.call(
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
        (["missing.toml"], "missing.toml: cannot be read"),
        (["bad.toml"], "limits.max_concurent_runs: is not a known key; did you mean limits.max_concurrent_runs?"),
        (["fine.toml", "--jobs", "nowhere.csv"], "nowhere.csv"),
        (["fine.toml", "--weight", "0"], "weight"),
        (["fine.toml", "--set", "limits"], "write it as section.key=value"),
        (["--profile", "../token", "--jobs", "fine.jsonl"], "there is no profile '../token'"),
        (["fine.toml", "--jobs", "fine.toml"], "is not a job file"),
    ],
)
def test_what_cannot_be_handed_in_is_refused_in_words(desk, arguments, word):
    """Exit 2, a line that says what is wrong, and nothing handed in."""
    desk.write("fine", [{"n": 1}])
    desk.write("bad", [{"n": 1}], "[limits]\nmax_concurent_runs = 3\n")
    before = len(desk.worker.batches())
    said = desk.call("submit", *arguments)
    assert said.code == 2, said
    assert word in said.err
    assert "Traceback" not in said.err
    assert len(desk.worker.batches()) == before


def test_a_batch_is_paused_resumed_limited_cancelled_and_deleted(desk):
    """Each verb says what has become of it; what cannot be done says why."""
    desk.call("submit", desk.write("long", [{"n": n, "ms": LONG_MS} for n in range(6)]), "--set",
              "limits.max_concurrent_runs=2")  # fmt: skip
    wait_until(lambda: desk.status("long")["live_runs"] == 2)
    changes = ("--set", "max_concurrent_runs=4", "--set", "weight=3", "--set", "start_rate=12.5")
    said = desk.call("limits", "long", *changes)
    assert (said.code, said.out.splitlines()[:4]) == (
        0,
        ["weight               3.0", "priority             0", "max_concurrent_runs  4", "start_rate           12.5"],
    )
    wait_until(lambda: desk.status("long")["live_runs"] == 4)
    assert desk.call("delete", "long").code == 2
    assert "pausing" in desk.call("pause", "long").err
    assert desk.call("resume", "long").code == 0
    several = desk.call("cancel", "nope", "long")
    assert several.code == 2
    assert "there is no batch 'nope'" in several.err
    assert "long (" in several.err
    wait_until(lambda: desk.status("long")["state"] == "cancelled")
    assert desk.status("long")["outcomes"] == {"aborted": 4}
    assert "cancelled" in desk.call("list", "--state", "cancelled").out
    shown = desk.call("limits", "long")
    assert "is cancelled: its limits are shown while it is open" in shown.err
    assert "none" not in shown.out
    assert desk.call("delete", "long").code == 0
    assert desk.call("status", "long").code == 2


def test_limits_of_all_batches_are_shown_and_changed(desk):
    """A wrong one changes nothing."""
    assert "budget_usd            none" in desk.call("limits").out
    assert "budget_usd            5" in desk.call("limits", "--set", "budget_usd=5").out
    assert "budget   $5.00" in desk.call("status").out
    wrong = desk.call("limits", "--set", "budget_usd=-5")
    assert (wrong.code, "budget_usd" in wrong.err) == (2, True)
    unknown = desk.call("limits", "--set", "max_concurent_runs=3")
    assert "max_concurent_runs: is not a known key; did you mean max_concurrent_runs?" in unknown.err
    assert orjson.loads(desk.call("limits", "--set", "budget_usd=none", "--json").out)["budget_usd"] is None


def test_the_command_line_curl_and_the_metrics_tell_the_same_numbers(desk):
    """All of them read the same views."""
    desk.call("submit", desk.write("numbers", [{"n": n, "items": 3} for n in range(4)]), "--wait")
    desk.call("submit", desk.write("held", [{"n": n, "ms": LONG_MS} for n in range(3)]))
    wait_until(lambda: desk.status("held")["live_runs"] == 3)
    for ref in ("numbers", "held"):
        assert orjson.loads(desk.worker.ask(f"/v1/batches/{ref}")[1]) == desk.status(ref)
    families = text_string_to_metric_families(desk.worker.ask("/metrics")[1].decode())
    samples = {(each.name, each.labels.get("batch")): each.value for family in families for each in family.samples}
    held = desk.status("held")
    assert samples["batchrun_batch_live_runs", held["id"]] == held["live_runs"] == 3
    worker = orjson.loads(desk.call("status", "--json").out)
    assert worker == orjson.loads(desk.worker.ask("/v1/worker")[1])
    assert samples["batchrun_live_runs", None] == worker["live_runs"] == 3
    assert samples["batchrun_slots_used", None] == worker["slots"]["used"]
    page = orjson.loads(desk.call("list", "--json").out)
    assert page == orjson.loads(desk.worker.ask("/v1/batches")[1])
    desk.call("cancel", "held")
    wait_until(lambda: desk.status("held")["state"] == "cancelled")


def test_records_are_followed_over_a_restart_of_the_worker(tmp_path):
    """The reader is told that it waits, goes on where it was, and ends with the batch: each record once."""
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, "[limits]\nmax_concurrent_runs = 2\n")
        desk = Desk(tmp_path, worker, api)
        followed = tmp_path / "followed.jsonl"
        with worker.running() as process:
            desk.call("submit", desk.write("slow", [{"n": n, "ms": 300} for n in range(12)]))
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
            assert b"waiting until it is back" in reader.stderr.readline()
            with worker.running():
                assert reader.wait(60) == 0
        (batch,) = worker.batches().values()
        records = worker.data_dir / "batches" / batch["id"] / "out" / "records.jsonl"
        assert followed.read_bytes() == records.read_bytes()
        assert len(api.runs()) == len(followed.read_bytes().splitlines()) == 12


def test_without_a_worker_each_verb_says_what_to_do(tmp_path):
    """No worker ever, one that is not there now, a wrong token, and something else that answers."""
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


def test_a_wrong_token_is_told(desk):
    """Exit 2, and the token is not repeated."""
    environ = {"BATCHRUN_WORKER_TOKEN": "a-wrong-token"}
    said = batchrun("worker", "list", "--url", desk.worker.address, cwd=desk.path, environ=environ)
    assert (said.code, "refuses this token" in said.err) == (2, True)
    assert "a-wrong-token" not in said.err
