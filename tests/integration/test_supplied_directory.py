"""An output directory that somebody else supplies: no command on it gives him the token or runs what he names."""

import shutil
from pathlib import Path

import pytest

from tests.support.command_line import batchrun
from tests.support.crash import CrashBatch, open_api

ENVIRON = {"APIFY_TOKEN": "apify_api_of_the_victim"}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a batch of which a job failed."""
    directory = tmp_path_factory.mktemp("theirs")
    with open_api(directory / "api") as api:
        batch = CrashBatch(directory, api.base_url, [{"fails": True}], {"retry.max_attempts": 1})
        assert batch.spawn().wait() == 1, batch.said()
    return batch.out


@pytest.mark.parametrize("verb", ["abort", "resolve", "repair", "retry"])
def test_a_copied_directory_chooses_nothing(ended, tmp_path, verb):
    """Neither the platform that gets the token, nor a file that is read, nor a program, an Actor, a task or a store."""
    shutil.copytree(ended, tmp_path / "theirs.out")
    said = batchrun(verb, "theirs.out", cwd=tmp_path, environ=ENVIRON)
    assert said.code == 2, said
    assert "theirs.out: was not last run by you in this place" in said.err
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
