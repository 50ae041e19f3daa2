"""How much each part of a batch in shards gets of what bounds the whole batch."""

from batchrun.config import Config
from batchrun.errors import ConfigError

#: Starts per second that are no bound of a batch: the platform's own.
_NO_BOUND = 380.0


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
    start_rate = limits.start_rate if limits.start_rate >= _NO_BOUND else limits.start_rate / count
    runs = divided(limits.wanted_runs)
    groups = {
        name: group.model_copy(update={"max_concurrent_runs": divided(group.max_concurrent_runs)})
        for name, group in config.groups.items()
    }
    changed = {"max_concurrent_runs": "auto" if runs is None else runs, "start_rate": start_rate}
    return config.model_copy(update={"limits": limits.model_copy(update=changed), "groups": groups})
