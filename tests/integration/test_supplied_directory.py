"""An output directory that somebody else supplies: no command on it gives him the token or runs what he names."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from batchrun.ledger.facts import CONFIG
from batchrun.ledger.sqlite.tables import open_ledger
from tests.support.command_line import batchrun
from tests.support.crash import CrashBatch, open_api

#: Where nobody listens.
ELSEWHERE = "http://127.0.0.1:9"
ENVIRON = {"APIFY_TOKEN": "apify_api_of_the_victim"}
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "api.base_url": {"api": {"base_url": ELSEWHERE}},
    "api.token_file": {"api": {"base_url": "https://api.apify.com", "token_file": "/etc/hostname"}},
    "[notify]": {"api": {"base_url": "embedded"}, "notify": {"command": ["/bin/false"]}},
    "server.actors": {"api": {"base_url": "embedded"}, "server": {"actors": ["/nowhere"]}},
    "replica.url": {"api": {"base_url": "embedded"}, "replica": {"url": "file:///nowhere", "lease_s": 1.0}},
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a batch of which a job failed."""
    directory = tmp_path_factory.mktemp("theirs")
    with open_api(directory / "api") as api:
        batch = CrashBatch(directory, api.base_url, [{"fails": True}], {"retry.max_attempts": 1})
        assert batch.spawn().wait() == 1, batch.said()
    return batch.out


def _choose(out: Path, choice: dict[str, dict[str, Any]]) -> None:
    with open_ledger(out) as ledger, ledger.transaction():
        noted = ledger.fact(CONFIG)
        assert noted is not None
        ledger.note_fact(CONFIG, noted | {section: noted.get(section, {}) | keys for section, keys in choice.items()})


@pytest.mark.parametrize(("verb", "key"), [*(("abort", key) for key in CHOICES), ("retry", "[notify]")])
def test_a_copied_directory_chooses_nothing(ended, tmp_path, verb, key):
    """Neither who gets the token, nor a file that holds one, nor a program, nor a store."""
    copy = tmp_path / "theirs.out"
    shutil.copytree(ended, copy)
    _choose(copy, CHOICES[key])
    said = batchrun(verb, "theirs.out", cwd=tmp_path, environ=ENVIRON)
    assert said.code == 2, said
    assert f"`{key}`" in said.err
    assert "batchrun run BATCH.toml" in said.err


def test_a_directory_that_was_run_in_its_place_needs_no_batch_file(ended, tmp_path):
    """It was moved together with those around it; the platform is the one with which it was run."""
    moved = tmp_path / "moved.out"
    ended.rename(moved)
    try:
        said = batchrun("retry", "moved.out", "--dry-run", cwd=tmp_path, environ=ENVIRON)
        assert said.code == 0, said
    finally:
        moved.rename(ended)
