from dataclasses import replace

import pytest

from tests.support.crash import CrashBatch, assert_promise_kept, open_api, some_jobs
from tests.support.fault_sets import FAULT_SETS, LITTLE_MEMORY
from tests.support.patience import SOON_GONE

#: What lags 3 s in two of the fault sets needs more than the default patience of these tests.
PATIENT = {"limits.listing_lag_s": 4.0}
LAGGING = ("lists that lag 3 s", "fresh Runs unknown for 3 s")

#: The sets that each run of the suite tries; the long form tries all, with six seeds each.
SHORT_SETS = ("rate limits half of the time", "lists that lag 3 s", "gone datasets", LITTLE_MEMORY, "a bad network")

#: With little memory: bytes of an item, and megabytes beyond those with which a process begins. It needs about 100 for
#: itself, and 270 if nothing bounds the items of 16 Runs.
ITEM_BYTES = 1_000_000
SPARE_MB = 140


def _carry_out(tmp_path, *, name: str, jobs: int, seed: int, kills: int, longest_s: float) -> int:
    """Carry a batch out under faults and kills, see that the promise was kept, and return how often it was killed."""
    file = tmp_path / "faults.toml"
    file.write_text(f"seed = {seed}\n{FAULT_SETS[name]}")
    with open_api(tmp_path / "api", faults=file) as api:
        settings = PATIENT if name in LAGGING else {}
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(jobs, seed), settings, constants=SOON_GONE)
        if name == LITTLE_MEMORY:
            batch = _with_little_memory(batch)
        assert batch.run_with_kills(seed, kills, longest_s=longest_s) == 1, batch.said()
    with open_api(tmp_path / "api") as api:
        assert_promise_kept(batch, api, are_datasets_gone=name == "gone datasets")
    return batch.kills


def _with_little_memory(batch: CrashBatch) -> CrashBatch:
    """Return a batch whose items, all Runs' together, are larger than what its processes may allocate."""
    return replace(
        batch,
        jobs=[{**job, "item_bytes": ITEM_BYTES} for job in batch.jobs],
        settings={**batch.settings, "output.page_size": 1000, "limits.max_buffer_mb": 16},
        spare_mb=SPARE_MB,
    )


@pytest.mark.parametrize("name", SHORT_SETS)
def test_a_batch_killed_under_faults_ends_right(tmp_path, name):
    """Whatever the platform does wrong meanwhile: one record per job, every Run in the records, items exact."""
    assert _carry_out(tmp_path, name=name, jobs=22, seed=3, kills=4, longest_s=0.9) >= 1


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", FAULT_SETS)
def test_the_long_form(tmp_path, name, seed, record_property):
    """The same over batches of 200 jobs, killed 30 times each unless they end before: about a thousand kills in all."""
    kills = _carry_out(tmp_path, name=name, jobs=200, seed=100 + seed, kills=30, longest_s=1.0)
    record_property("kills", kills)


def test_a_batch_from_a_compressed_file_ends_right(tmp_path):
    """A file that is read from the top after every kill gives each job once, those under way included."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(120), suffix=".gz")
        assert batch.run_with_kills(seed=2, kills=6, longest_s=0.8) == 1, batch.said()
        assert batch.kills >= 1
        assert_promise_kept(batch, api)


def test_a_batch_that_carries_its_server_along_ends_right(tmp_path):
    """Embedded, the server dies with the process; its live Runs start again under their ids, and none twice."""
    batch = CrashBatch(tmp_path, "embedded", some_jobs(11), {"limits.max_concurrent_runs": 4})
    assert batch.run_with_kills(seed=5, kills=4, longest_s=2.0) == 1, batch.said()
    assert batch.kills >= 1
    with open_api(batch.out / "server") as api:
        assert_promise_kept(batch, api)
