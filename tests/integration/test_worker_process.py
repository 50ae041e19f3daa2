"""A worker under a supervisor: signals, sd_notify, logs, retention, with real processes of worker and server."""

import gzip
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import orjson

from tests.support.api_process import TOKEN
from tests.support.command_line import batchrun
from tests.support.crash import Api, open_api, wait_until
from tests.support.json_lines import read_lines
from tests.support.worker_process import WorkerProcess, log_lines

ROOT = Path(__file__).parents[2]
#: Duration of Runs that end only by an abort: longer than any test.
LONG_MS = 600_000


def _held(count: int) -> list[dict[str, int]]:
    return [{"n": n, "ms": LONG_MS} for n in range(count)]


def _live(api: Api) -> int:
    return sum(run["status"] in ("READY", "RUNNING") for run in api.runs())


def _records(out: Path) -> list[dict[str, Any]]:
    return read_lines(out / "records.jsonl")


def test_sigterm_waits_for_runs_that_end_in_time(tmp_path):
    """No new starts; live Runs are settled, and the next start resumes the rest."""
    jobs = [{"n": n, "ms": 300} for n in range(40)]
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, "[limits]\nmax_concurrent_runs = 4\n")
        with worker.running() as process:
            out = worker.put_batch("shop", jobs)
            wait_until(lambda: len(log_lines(out / "records.jsonl")) >= 4)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, worker.said()
        started = len(api.runs())
        assert _live(api) == 0
        assert len(_records(out)) == started < len(jobs)
        assert "resumes 1 batch" in worker.said()
        with worker.running():
            assert worker.wait_for_end("shop")["state"] == "finished"
        assert len(_records(out)) == len(api.runs()) == len(jobs)


def test_sigterm_leaves_runs_that_take_longer_than_drain_s_running(tmp_path):
    """It ends after `drain_s`; the next start follows the same Runs."""
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, "[worker]\ndrain_s = 0.2\n")
        with worker.running() as process:
            worker.put_batch("shop", _held(3))
            wait_until(lambda: _live(api) == 3)
            wait_until(lambda: worker.batches()["shop"]["state"] == "active")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, worker.said()
        assert _live(api) == 3
        assert worker.batches()["shop"]["state"] == "active"
        with worker.running():
            wait_until(lambda: orjson.loads(worker.ask("/v1/worker")[1])["live_runs"] == 3)
        assert len(api.runs()) == 3


def test_a_worker_that_others_reach_is_warned_about(tmp_path):
    """A loopback address is nothing to talk about."""
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, '[worker]\nhost = "127.0.0.1"\n')
        for host, is_warned in (("127.0.0.1", False), ("0.0.0.0", True)):
            worker.configure(f'[worker]\nhost = "{host}"\n')
            with worker.running() as process:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
            assert ("WARNING: the worker listens at 0.0.0.0" in worker.said()) is is_warned


def test_a_second_sigterm_exits_at_once(tmp_path):
    """Whatever `drain_s` is; Runs keep running, and none is started twice."""
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, "[worker]\ndrain_s = 3600\n")
        with worker.running() as process:
            worker.put_batch("shop", _held(3))
            wait_until(lambda: _live(api) == 3)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Send SIGTERM again to exit and leave them running" in worker.said())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, worker.said()
        assert _live(api) == 3
        with worker.running():
            wait_until(lambda: orjson.loads(worker.ask("/v1/worker")[1])["live_runs"] == 3)
        assert len(api.runs()) == 3


def test_sighup_applies_limits_and_a_bad_file_changes_nothing(tmp_path):
    """A higher limit starts more Runs at once; an invalid file is reported."""
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, "[limits]\nmax_concurrent_runs = 2\n")
        with worker.running() as process:
            worker.put_batch("shop", _held(9))
            wait_until(lambda: _live(api) == 2)
            worker.configure("[limits]\nmax_concurrent_runs = 5\n[server]\nmax_total_memory_mb = 512\n")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: _live(api) == 5)
            assert "reloaded; server.max_total_memory_mb: a change takes effect with the next start" in worker.said()
            worker.configure("[limits]\nmax_concurrent_runs = -1\nmax_runs = 3\n")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "was not reloaded" in worker.said())
            assert "limits.max_concurrent_runs" in worker.said()
            assert "limits.max_runs" in worker.said()
            (worker.data_dir / "worker.toml").unlink()  # as an editor may, for a moment: its limits are meant to hold
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "worker.toml: is gone; put it back" in worker.said())
            assert orjson.loads(worker.ask("/v1/limits")[1])["max_concurrent_runs"] == 5
            assert orjson.loads(worker.ask("/v1/worker")[1])["slots"]["limit"] == 5
            assert process.poll() is None
        assert len(api.runs()) == 5


def test_a_worker_without_a_token_does_not_begin_to_listen(tmp_path):
    """Its service would be started, and stop at once: the start itself fails, with the reason, and leaves nothing."""
    said = batchrun("worker", "start", "--data", "data", "--api-url", "https://api.example.com", cwd=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert "needs an API token" in said.err
    assert list(tmp_path.iterdir()) == []


def test_systemd_does_not_restart_a_worker_whose_token_is_refused(tmp_path):
    """It would be refused each time, until systemd gives up."""
    environ = {"APIFY_TOKEN": "of-nobody"}
    with open_api(tmp_path / "api") as api:
        options = ("--data", "data", "--port", "0", "--api-url", api.base_url)
        said = batchrun("worker", "start", *options, cwd=tmp_path, environ=environ)
    assert "the platform does not accept the token" in said.err
    unit = (ROOT / "configs/batchrun-worker.service").read_text("utf-8")
    assert str(said.code) in unit.partition("RestartPreventExitStatus=")[2].splitlines()[0].split()


def test_systemd_is_notified_of_readiness_status_and_stop(tmp_path):
    """READY once batches can be submitted, WATCHDOG from the loop, RELOADING and READY around SIGHUP, STOPPING."""
    with open_api(tmp_path / "api") as api, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        said: list[str] = []

        def hear(word: str) -> None:
            while not any(line.startswith(word) for line in said):
                said.extend(listening.recv(4096).decode().split("\n"))

        worker = WorkerProcess(tmp_path / "data", api.base_url)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        with worker.running(environ) as process:
            hear("READY=1")
            assert worker.ask("/health/live")[0] == 200
            hear("WATCHDOG=1")
            hear("STATUS=0 batches under way, 0 live Runs")
            said.clear()
            process.send_signal(signal.SIGHUP)
            hear("RELOADING=1")
            hear("READY=1")
            process.send_signal(signal.SIGTERM)
            hear("STOPPING=1")
            assert process.wait(30) == 0, worker.said()


def test_a_stuck_loop_sends_no_watchdog_message(tmp_path):
    """A process stopped by SIGSTOP sends nothing until it continues."""
    with open_api(tmp_path / "api") as api, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        worker = WorkerProcess(tmp_path / "data", api.base_url)
        with worker.running({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000"}) as process:
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: f"{Path(f'/proc/{process.pid}/stat').read_text().rpartition(')')[2].split()[0]}" == "T")
            listening.setblocking(False)
            while True:  # what it said before
                try:
                    listening.recv(4096)
                except BlockingIOError:
                    break
            listening.settimeout(1)
            try:
                said = listening.recv(4096)
            except TimeoutError:
                said = b""
            process.send_signal(signal.SIGCONT)
            assert said == b""
            listening.settimeout(30)
            assert listening.recv(4096)


def test_log_lines_have_batch_job_key_and_run_id_and_go_to_their_batchs_log(tmp_path):
    """Started Runs and settled jobs are logged in their batch's log, which logrotate may move away."""
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, '[worker]\nlog_level = "debug"\n')
        with worker.running():
            outs = {name: worker.put_batch(name, [{"n": n} for n in range(5)]) for name in ("one", "two")}
            for name in outs:
                worker.wait_for_end(name)
            ids = {name: each["id"] for name, each in worker.batches().items()}
            wait_until(lambda: all("batch_rests" in (out / "batch.log").read_text() for out in outs.values()))
        for name, out in outs.items():
            expected = {(ids[name], record["key"], record["run"]["id"]) for record in _records(out)}
            assert len(expected) == 5
            for event in ("run_started", "job_settled"):
                lines = [line for line in log_lines(out / "batch.log") if line["event"] == event]
                assert {(line["batch"], line["job_key"], line["run_id"]) for line in lines} == expected, event
                assert len(lines) == 5
        events = {line["event"] for line in log_lines(tmp_path / "data/worker.log")}
        assert events.isdisjoint({"run_started", "job_settled"})
        token = (tmp_path / "data/token").read_text().strip()
        logs = [tmp_path / "data/worker.log", *(out / "batch.log" for out in outs.values())]
        assert all(token not in log.read_text() for log in logs)


@contextmanager
def _collector() -> Iterator[tuple[str, list[bytes]]]:
    """Run a collector; yields its address and the received spans."""
    came: list[bytes] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Taking) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()


def test_spans_arrive_at_a_collector_without_a_token_in_them(tmp_path):
    """Enabled by OpenTelemetry's own variable; remaining spans are sent before the worker ends."""
    with open_api(tmp_path / "api") as api, _collector() as (address, came):
        worker = WorkerProcess(tmp_path / "data", api.base_url)
        with worker.running({"OTEL_EXPORTER_OTLP_ENDPOINT": address}) as process:
            out = worker.put_batch("shop", [{"n": n} for n in range(3)])
            worker.wait_for_end("shop")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, worker.said()
    sent = b"".join(came)
    assert b"batchrun-worker" in sent
    for record in _records(out):
        assert record["key"].encode() in sent
        assert record["run"]["id"].encode() in sent
    for token in (TOKEN, (tmp_path / "data/token").read_text().strip()):
        assert token.encode() not in sent


def test_an_unreachable_collector_costs_spans_and_one_log_line(tmp_path):
    """Batches and worker end as usual; only the log mentions it, without a key in the collector's address."""
    with open_api(tmp_path / "api") as api, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"user:a-SECRET@127.0.0.1:{nobody.getsockname()[1]}/v1/traces?api-key=a-SECRET"
        config = f'[worker]\ntraces = "http://{address}"\n'
        worker = WorkerProcess(tmp_path / "data", api.base_url, config)
        with worker.running() as process:
            worker.put_batch("shop", [{"n": n} for n in range(3)])
            assert worker.wait_for_end("shop")["state"] == "finished"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, worker.said()
    (reason,) = (
        line["reason"] for line in log_lines(tmp_path / "data/worker.log") if line["event"] == "traces_not_sent"
    )
    assert ("/v1/traces?*** " in reason, "SECRET" in reason) == (True, False), reason
    assert "opentelemetry" not in worker.said().lower()
