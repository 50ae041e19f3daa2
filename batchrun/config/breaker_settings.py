"""`[breaker]`: when too many failures stop the starts."""

from typing import Annotated, Literal

from pydantic import Field

from batchrun.config.section import PositiveInt, Section
from batchrun.policy.breaker import BreakerLimits


class BreakerConfig(Section):
    """When new starts stop because too many jobs fail."""

    max_failed: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] | Literal["off"] = 0.5
    """Jobs without success among the last `window` settled ones, of the batch or a group: a number, or a fraction."""
    window: PositiveInt = 50
    """Number of last settled jobs that count."""
    empty_in_a_row: PositiveInt | Literal["off"] = 25
    """Successes in a row without any item, after some with items."""


def breaker_limits(config: BreakerConfig) -> BreakerLimits:
    """Return what trips the breaker."""
    max_failed = None if config.max_failed == "off" else config.max_failed
    empty_in_a_row = None if config.empty_in_a_row == "off" else config.empty_in_a_row
    return BreakerLimits(
        max_failed=max_failed,
        is_fraction=isinstance(max_failed, float),
        window=config.window,
        empty_in_a_row=empty_in_a_row,
    )
