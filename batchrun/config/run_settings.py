"""`[run]`: the options of all Runs."""

from typing import Annotated

from pydantic import Field

from batchrun.config.section import Memory, Name, PositiveInt, Section
from batchrun.model import JsonObject, RunOptions


class OptionsConfig(Section):
    """Options of a Run."""

    build: Name | None = None
    """Tag or number of the Actor's build."""
    timeout_s: Annotated[int, Field(ge=0)] | None = None
    """The Run's own time limit in seconds; 0 means none."""
    memory_mb: Memory | None = None
    """Memory of the Run in megabytes, a power of 2 from 128 to 32768."""
    max_items: PositiveInt | None = None
    """Most dataset items that a pay-per-result Actor may charge for."""
    max_total_charge_usd: Annotated[float, Field(gt=0)] | None = None
    """Most that a pay-per-event Actor may charge."""
    restart_on_error: bool | None = None
    """Whether the platform restarts the Run when its process fails."""
    webhooks: list[JsonObject] | None = None
    """Ad-hoc webhooks in the API's own spelling: eventTypes, requestUrl, payloadTemplate, …"""

    def as_options(self) -> RunOptions:
        """Return these options as the engine takes them."""
        values = self.model_dump(include=OptionsConfig.model_fields.keys() - {"webhooks"})
        return RunOptions(**values, webhooks=tuple(self.webhooks) if self.webhooks is not None else None)


class RunConfig(OptionsConfig):
    """Options of every Run. A job's `@options` override them; the task's apply where neither sets one."""

    pin_build: bool = False
    """Whether all Runs use the build that the tag names when the batch is begun, even if a new one is released."""
