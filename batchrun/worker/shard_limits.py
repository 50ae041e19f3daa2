"""How what bounds a batch in shards is divided among its parts: whether that is possible, and how much each gets."""

from batchrun.config import Config
from batchrun.errors import ConfigError
from batchrun.policy.platform_rates import STARTS_PER_TASK_PER_S


def refuse_indivisible(config: Config, shards: int) -> None:
    """Check that what bounds a batch can be divided among its parts.

    Raises:
        ConfigError: a part would get none of it, or a Run could need more than a part gets.
    """
    limits = config.limits
    if config.jobs.shard is not None:
        raise ConfigError("is set by --shards, for each part; leave it out", key="jobs.shard")
    if limits.wanted_memory_mb is not None:
        raise ConfigError(
            "bounds all Runs of the batch together, and a part of it may be less than one Run needs. Leave it"
            " out: the fleet's own max_total_memory_mb, in worker.toml, bounds all batches",
            key="limits.max_total_memory_mb",
        )
    bounds = {"limits.max_concurrent_runs": limits.wanted_runs}
    bounds |= {f"groups.{name}.max_concurrent_runs": group.max_concurrent_runs for name, group in config.groups.items()}
    for key, bound in bounds.items():
        if bound is not None and bound < shards:
            raise ConfigError(
                f"is divided among the shards, and {bound} is less than their number, {shards}: some could start"
                " nothing. Raise it, or submit the batch with fewer shards",
                key=key,
            )


def with_part_of_limits(config: Config) -> Config:
    """Return the configuration of a part, with its part of what bounds all parts together.

    Its budget is the whole one: the page of the fleet divides it by need.
    """
    if config.jobs.shard is None:
        raise ConfigError("is missing in what is to be a part of a batch in shards", key="jobs.shard")
    number, count = config.jobs.shard

    def divided(bound: int | None) -> int | None:
        return None if bound is None else bound // count + (number <= bound % count)

    limits = config.limits
    start_rate = limits.start_rate if limits.start_rate >= STARTS_PER_TASK_PER_S else limits.start_rate / count
    runs = divided(limits.wanted_runs)
    groups = {
        name: group.model_copy(update={"max_concurrent_runs": divided(group.max_concurrent_runs)})
        for name, group in config.groups.items()
    }
    changed = {"max_concurrent_runs": "auto" if runs is None else runs, "start_rate": start_rate}
    return config.model_copy(update={"limits": limits.model_copy(update=changed), "groups": groups})
