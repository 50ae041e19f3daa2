"""A dataset as the API serves it: page by page."""

from typing import Any

from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsPage:
    """One page of a dataset."""

    items: list[Any]
    #: The dataset's item count by the platform's counter, which lags; None if the platform does not report it.
    total: int | None
