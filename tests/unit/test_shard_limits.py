"""What bounds a batch in shards: whether it can be divided, and what each part gets of it."""

from typing import Any

import pytest

from batchrun.config import Config, load_config
from batchrun.errors import ConfigError
from batchrun.worker.shard_limits import refuse_indivisible, with_part_of_limits


def config(**flags: Any) -> Config:
    """Return the configuration of a batch."""
    given = {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(flags={"task.id": "t", "jobs.file": "jobs.csv", **given}, environ={})


def test_limits_of_the_whole_are_divided() -> None:
    """All parts together never have more; the budget is divided by the page."""
    whole = config(limits__max_concurrent_runs=11, limits__start_rate=8.0, limits__budget_usd=5.0)
    found = []
    for number in (1, 2, 3, 4):
        shard = {"shard": [number, 4]}
        limits = with_part_of_limits(whole.model_copy(update={"jobs": whole.jobs.model_copy(update=shard)})).limits
        found.append((limits.max_concurrent_runs, limits.start_rate, limits.budget_usd))
    assert found == [(3, 2.0, 5.0)] * 3 + [(2, 2.0, 5.0)]


def test_a_part_without_its_shard_is_refused() -> None:
    """Whoever can write to the list of a fleet can make one: it is the batch's error, and no bug."""
    with pytest.raises(ConfigError, match=r"jobs\.shard: is missing"):
        with_part_of_limits(config())


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ({"limits__max_concurrent_runs": 3}, "limits.max_concurrent_runs"),
        ({"limits__max_total_memory_mb": 4096}, "limits.max_total_memory_mb"),
        ({"groups": {"de": {"max_concurrent_runs": 1}}}, "groups.de.max_concurrent_runs"),
        ({"jobs__shard": [1, 2]}, "jobs.shard"),
    ],
)
def test_what_cannot_be_divided_is_refused(flags: dict[str, Any], key: str) -> None:
    """In words that name the key."""
    with pytest.raises(ConfigError) as refused:
        refuse_indivisible(config(**flags), 4)
    assert key in str(refused.value)
