"""Whether a batch can be submitted with `--shards N`: each part must get enough of what bounds the batch."""

from batchrun.config import Config
from batchrun.errors import ConfigError


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
