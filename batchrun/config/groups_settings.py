"""`[groups]`: the weights and limits of groups of jobs."""

from collections.abc import Mapping

from batchrun.config.section import PositiveInt, Section, Weight


class GroupConfig(Section):
    """Weight and limit of the jobs of one `@group`."""

    weight: Weight | None = None
    """Weight of its starts against other groups, default 1. If set, the file is read ahead, up to 10,000 jobs."""
    max_concurrent_runs: PositiveInt | None = None
    """Most Runs of the group live at once."""


def group_limits(groups: Mapping[str, GroupConfig]) -> dict[str, int]:
    """Return the max live Runs of each group that has a limit."""
    limits = {name: group.max_concurrent_runs for name, group in groups.items()}
    return {name: limit for name, limit in limits.items() if limit is not None}


def group_weights(groups: Mapping[str, GroupConfig]) -> dict[str | None, float]:
    """Return the weights that were set; the job file is read ahead for these groups alone."""
    return {name: group.weight for name, group in groups.items() if group.weight is not None}
