"""`[task]`: the task, named by its id or described."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, model_validator

from batchrun.config.run_settings import OptionsConfig
from batchrun.config.section import Name, Section
from batchrun.model import JsonObject


def _resource_name(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9-]{1,61}[a-zA-Z0-9]", value):
        raise ValueError("must be 3 to 63 letters, digits and hyphens, without a hyphen at its ends")
    return value


class TaskConfig(Section):
    """The task: named by id, or described so that it is created if it is missing."""

    # For editors: nearly the rule of `_is_named_or_described`.
    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["id"]}, {"required": ["actor", "name"]}]})

    id: Name | None = None
    """Id of the task, or user~name."""
    actor: Name | None = None
    """The Actor of a described task, like apify/hello-world."""
    name: Annotated[Name, AfterValidator(_resource_name)] | None = None
    """The name of a described task: 3 to 63 letters, digits and hyphens."""
    input: JsonObject = {}
    """The input of a described task."""
    options: OptionsConfig = OptionsConfig.model_construct()
    """The options of a described task."""

    @model_validator(mode="after")
    def _is_named_or_described(self) -> Self:
        described = self.actor is not None and self.name is not None
        if (self.id is None) == (not described) or (self.id is not None and self.actor is not None):
            raise ValueError("needs either id, or actor and name")
        if self.id is not None and (self.input or self.options.model_fields_set):
            raise ValueError("input and options describe a new task; beside id, write [input] and [run] instead")
        return self
