"""An Actor's input schema: defaults, prefills, and validation with the platform's messages.

The Apify format is not JSON Schema: the part that validates is translated, the rest describes a form. Pure.
"""

from typing import Any

import jsonschema_rs

from batchrun.model import JsonObject
from batchrun.policy.json_schema import InputValidator, is_undecided
from batchrun.server.error_answers import ErrorAnswer, input_invalid

_FIELD_KEYWORDS = (
    "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems",
    "minProperties", "maxProperties", "pattern", "items", "properties", "required", "additionalProperties",
)  # fmt: skip


class ActorInputSchema:
    def __init__(self, schema: JsonObject) -> None:
        self.schema = schema
        try:
            fields = _fields(schema)
            self._validator = InputValidator(_translate(schema))
        except (jsonschema_rs.ValidationError, ValueError, TypeError, AttributeError) as error:
            raise ErrorAnswer(400, "invalid-input-schema", f"Input schema is not valid: {error}") from error
        self._defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
        self._prefills = {
            name: field.get("prefill", field.get("default"))
            for name, field in fields.items()
            if "prefill" in field or (field.get("editor") == "hidden" and "default" in field)
        }

    def filled(self, given: JsonObject) -> JsonObject:
        """Return the input, with defaults for missing top-level properties."""
        return {**self._defaults, **given}

    def prefilled(self) -> JsonObject:
        """Return the input of a new task that is created without one."""
        return dict(self._prefills)

    def check(self, value: JsonObject) -> None:
        """Refuse an input, naming the first field that is wrong."""
        for error in self._validator.errors(value):
            if not is_undecided(error):
                raise input_invalid(_sentence(error))


def _fields(schema: JsonObject) -> dict[str, JsonObject]:
    fields = schema.get("properties", {})
    if not isinstance(fields, dict) or not all(isinstance(field, dict) for field in fields.values()):
        raise ValueError('"properties" must be an object of objects')
    return fields


def _translate(schema: JsonObject) -> JsonObject:
    fields = _fields(schema)
    return {
        "type": "object",
        "properties": {name: _translate_field(field) for name, field in fields.items()},
        "required": schema.get("required") or [],
        "additionalProperties": schema.get("additionalProperties", True),
    }


def _translate_field(field: JsonObject) -> JsonObject:
    kept = {name: field[name] for name in _FIELD_KEYWORDS if name in field}
    given = field.get("type")
    types = list(given) if isinstance(given, list) else [given] if given else []
    if not types or not field.get("nullable"):
        return kept | ({"type": types} if types else {})
    if "enum" in kept:
        kept["enum"] = [*kept["enum"], None]
    return kept | {"type": [*types, "null"]}


def _sentence(error: jsonschema_rs.ValidationError) -> str:
    path = ".".join(["input", *(str(part) for part in error.instance_path)])
    keyword = str(error.schema_path[-1]) if error.schema_path else ""
    limit = _keyword_value(error)
    sentences = {
        "required": f"Field {path}.{_missing_name(error)} is required",
        "type": f"Field {path} must be {_type_names(limit)}",
        "minimum": f"Field {path} must be >= {limit}",
        "maximum": f"Field {path} must be <= {limit}",
        "enum": f"Field {path} must be equal to one of the allowed values: {_listed(limit)}",
        "pattern": f"Field {path} must match regular expression {limit}",
        "minLength": f"Field {path} must NOT have fewer than {limit} characters",
        "maxLength": f"Field {path} must NOT have more than {limit} characters",
        "minItems": f"Field {path} must NOT have fewer than {limit} items",
        "maxItems": f"Field {path} must NOT have more than {limit} items",
    }
    return sentences.get(keyword, f"Field {path}: {error.message}")


def _keyword_value(error: jsonschema_rs.ValidationError) -> Any:
    kind = error.kind
    return next((getattr(kind, name) for name in ("limit", "types", "options", "pattern") if hasattr(kind, name)), None)


def _missing_name(error: jsonschema_rs.ValidationError) -> str:
    return str(getattr(error.kind, "property", "")).strip('"')


def _type_names(types: Any) -> str:
    return ",".join(map(str, types)) if isinstance(types, list) else str(types)


def _listed(options: Any) -> str:
    return (
        ", ".join(f'"{option}"' for option in options if option is not None)
        if isinstance(options, list)
        else str(options)
    )
