import os
import signal
import time

import pytest

from tests.support.crash import CrashBatch, assert_promise_kept, open_api, some_jobs, wait_until

SHORT_S, LONG_S = 2.0, 60.0


def _is_under_way(batch: CrashBatch) -> bool:
    file = batch.out / "records.jsonl"
    return file.exists() and file.stat().st_size > 0


@pytest.mark.parametrize("pause_s", [SHORT_S, pytest.param(LONG_S, marks=pytest.mark.long)])
def test_a_batch_that_is_stopped_and_continued_ends_right(tmp_path, pause_s):
    """A process that is put to sleep in the middle goes on as if nothing had been."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(100))
        process = batch.spawn()
        wait_until(lambda: _is_under_way(batch))
        os.kill(process.pid, signal.SIGSTOP)
        _let_pass(pause_s)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(120) == 1, batch.said()
        assert_promise_kept(batch, api)


@pytest.mark.parametrize("away_s", [SHORT_S, pytest.param(2 * LONG_S, marks=pytest.mark.long)])
def test_a_batch_whose_server_goes_away_and_comes_back_ends_right(tmp_path, away_s):
    """No job fails for an outage; one line says that it began, and one that it is over."""
    with open_api(tmp_path / "api") as api:
        port = int(api.base_url.rsplit(":", 1)[1])
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(100))
        process = batch.spawn()
        wait_until(lambda: _is_under_way(batch))
    _let_pass(away_s)
    with open_api(tmp_path / "api", port=port) as api:
        assert process.wait(180) == 1, batch.said()
        assert_promise_kept(batch, api)
    assert batch.said().count("The platform cannot be reached") <= 1, batch.said()
    assert batch.said().count("can be reached again") == batch.said().count("The platform cannot be reached"), (
        batch.said()
    )


def _let_pass(seconds: float) -> None:
    """Let real time pass for other processes; nothing is asserted about how long it was."""
    time.sleep(seconds)
