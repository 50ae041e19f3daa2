"""An Actor's input schema: its defaults, and the messages with which the platform would refuse an input.

Apify's format is JSON Schema plus keywords for a form (editor, prefill, …) and keywords for further checks. It is
translated to JSON Schema by a list of known keywords. Other keywords are dropped: a schema is untrusted, so that `$ref`
above all is never followed. Source: the platform's documentation of the input schema, and its published validation
(apify-shared-js, packages/input_schema). Not checked: proxy groups and countries, the syntax of URLs in request lists.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from batchrun.model import JsonObject
from batchrun.policy.json_schema import InputValidator, is_undecided
from batchrun.policy.secret_fields import SecretFields

if TYPE_CHECKING:
    import jsonschema_rs

#: Problems that are reported for one input; an array may have the same problem a million times.
MAX_PROBLEMS_PER_INPUT = 20
#: Length to which a message is cut; it may quote a long list of allowed values.
MAX_MESSAGE_CHARS = 300

#: Keywords with the same meaning in both formats and without nested schemas.
_PLAIN_WORDS = (
    "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
    "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip
#: Prefix with which the platform shows a stored secret; only the Actor can decrypt it, so it is not checked.
_ENCRYPTED = "ENCRYPTED_"
#: Converters of a template, by the type that a property wants.
_CONVERTERS = {"integer": ":int", "number": ":float", "boolean": ":bool", "object": ":json"}


class SchemaUnusable(ValueError):
    """The schema is not valid; the text says why."""


class InputSchema:
    """One Actor's input schema, compiled.

    Raises:
        SchemaUnusable: the schema is not valid.
    """

    def __init__(self, schema: JsonObject) -> None:
        #: Fields whose pattern cannot be compiled here; the platform may still check it.
        self.untried_patterns: list[str] = []
        try:
            fields = _objects(schema.get("properties", {}))
            self._validator = InputValidator(self._translated({"type": "object", **schema}, "input"))
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise SchemaUnusable(_brief(str(error).splitlines()[0] if str(error) else type(error).__name__)) from error
        #: The properties that the schema names, and each one's part of the schema.
        self.fields = fields
        self.names = tuple(fields)
        required = schema.get("required")
        self.required = tuple(map(str, required)) if isinstance(required, list) else ()
        self.defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
        #: The input that the platform gives to a new task without one.
        self.prefills = {
            name: field.get("prefill", field.get("default"))
            for name, field in fields.items()
            if "prefill" in field or (field.get("editor") == "hidden" and "default" in field)
        }
        self._types = {name: field.get("type") for name, field in fields.items()}
        self._secrets = {name for name, field in fields.items() if field.get("isSecret")}
        #: The fields that the schema marks as secret, nested ones included.
        self.secrets = SecretFields(tuple(_secret_paths(schema, ())))

    def problems(self, value: JsonObject, columns: Mapping[str, str] = MappingProxyType({})) -> list[str]:
        """Return the messages with which the platform would refuse an input that includes the defaults.

        Positions in arrays are written as `*`, so that the same problem of many inputs is the same message. Values are
        left out, since they may be secrets.

        Args:
            value: the input.
            columns: of the job file that fill in a property, by its path, like `input.startUrls.*.url`; the message
                names the one whose cell is empty.
        """
        try:
            errors = islice(self._validator.errors(value), MAX_PROBLEMS_PER_INPUT)
            return list(dict.fromkeys(message for error in errors for message in self._messages(error, value, columns)))
        except ValueError as error:  # the input nests too deeply for the validator
            return [f"The input cannot be checked: {_brief(str(error))}"]

    def placeholder(self, name: str, column: str) -> str:
        """Return a line of a template, as TOML, that fills a property from a column."""
        kind = str(self._types.get(name))
        named = column if re.fullmatch(r"[\w ]+", column) else f'"{column}"'
        inside = f"'{{{{{named}{_CONVERTERS.get(kind, '')}}}}}'"
        return f"{name} = [{inside}]" if kind == "array" else f"{name} = {inside}"

    def _messages(
        self, error: "jsonschema_rs.ValidationError", value: JsonObject, columns: Mapping[str, str]
    ) -> Iterator[str]:
        path = list(error.instance_path)
        if path and path[0] in self._secrets and str(value[path[0]]).startswith(_ENCRYPTED):
            return
        if is_undecided(error):
            return
        named = ".".join(["input", *("*" if isinstance(part, int) else str(part) for part in path)])
        empty = _empty_column(error, named, value, columns) if columns else ""
        for message in _sentences(error, named):
            yield _brief(empty + message)

    def _translated(self, field: JsonObject, path: str) -> JsonObject:
        made = {name: field[name] for name in _PLAIN_WORDS if name in field}
        if isinstance(pattern := field.get("pattern"), str) and self._can_be_tried(pattern, path):
            made["pattern"] = pattern
        if isinstance(required := field.get("required"), list):
            made["required"] = required
        if "properties" in field:
            parts = _objects(field["properties"]).items()
            made["properties"] = {name: self._translated(part, f"{path}.{name}") for name, part in parts}
        for name in ("items", "additionalProperties"):
            if name in field:
                part = field[name]
                made[name] = self._translated(part, f"{path}.*") if isinstance(part, dict) else part
        self._add_own_checks(made, field, path)
        return _with_type(made, field)

    def _add_own_checks(self, made: JsonObject, field: JsonObject, path: str) -> None:
        """Add the checks of Apify's own keywords: patterns of keys and values, sources of requests."""
        key, value = (self._pattern(field.get(name), path) for name in ("patternKey", "patternValue"))
        editor = field.get("editor")
        if field.get("type") == "object":
            made.update({"propertyNames": key} if key else {})
            made.update({"patternProperties": {"": {"type": "string", **value}}} if value else {})
        elif field.get("type") == "array" and "items" not in made:
            if editor == "requestListSources":
                made["items"] = {"type": "object", "anyOf": [{"required": ["url"]}, {"required": ["requestsFromUrl"]}]}
            elif editor == "keyValue" and (key or value):
                made["items"] = {"properties": {"key": key, "value": value}}
            elif editor == "stringList" and value:
                made["items"] = value

    def _pattern(self, pattern: Any, path: str) -> JsonObject:
        is_one = isinstance(pattern, str) and self._can_be_tried(pattern, path)
        return {"pattern": pattern} if is_one else {}

    def _can_be_tried(self, pattern: str, path: str) -> bool:
        try:
            InputValidator({"pattern": pattern})
        except ValueError:
            self.untried_patterns.append(path)
            return False
        return True


def _secret_paths(field: JsonObject, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the secret fields in a field; "*" stands for items and for properties without a schema."""
    if field.get("isSecret"):
        yield path
        return
    for name, part in _objects(field.get("properties", {})).items():
        yield from _secret_paths(part, (*path, name))
    for word in ("items", "additionalProperties"):
        if isinstance(any_part := field.get(word), dict):
            yield from _secret_paths(any_part, (*path, "*"))


def _objects(fields: Any) -> dict[str, JsonObject]:
    if not isinstance(fields, dict) or not all(isinstance(field, dict) for field in fields.values()):
        raise ValueError('"properties" must be an object of objects')
    return fields


def _with_type(made: JsonObject, field: JsonObject) -> JsonObject:
    given = field.get("type")
    types = [*given] if isinstance(given, list) else [given] if given else []
    if not field.get("nullable"):
        return made | ({"type": types} if types else {})
    if isinstance(made.get("enum"), list):
        made["enum"] = [*made["enum"], *([] if None in made["enum"] else [None])]
    return made | ({"type": [*types, *([] if "null" in types else ["null"])]} if types else {})


def _sentences(error: "jsonschema_rs.ValidationError", path: str) -> list[str]:
    """Word a field's problem as the platform does; one sentence for each property that is not allowed."""
    kind = error.kind
    keyword = str(error.schema_path[-1]) if error.schema_path else ""
    limit = next(
        (getattr(kind, name) for name in ("limit", "types", "options", "pattern") if hasattr(kind, name)), None
    )
    if keyword == "additionalProperties" and hasattr(kind, "unexpected"):
        return [f"Property {path}.{name} is not allowed" for name in kind.unexpected[:MAX_PROBLEMS_PER_INPUT]]
    if "propertyNames" in error.schema_path[-2:]:
        return [f"Field {path} has names of properties that do not fit"]
    missing = _missing(error)
    sentences = {
        "required": f"Field {path}.{missing} is required",
        "type": f"Field {path} must be {_types(limit)}",
        "minimum": f"Field {path} must be >= {limit}",
        "maximum": f"Field {path} must be <= {limit}",
        "exclusiveMinimum": f"Field {path} must be > {limit}",
        "exclusiveMaximum": f"Field {path} must be < {limit}",
        "enum": f"Field {path} must be equal to one of the allowed values: {_quoted(limit)}",
        "pattern": f"Field {path} must match regular expression {limit}",
        "minLength": f"Field {path} must NOT have fewer than {limit} characters",
        "maxLength": f"Field {path} must NOT have more than {limit} characters",
        "minItems": f"Field {path} must NOT have fewer than {limit} items",
        "maxItems": f"Field {path} must NOT have more than {limit} items",
        "minProperties": f"Field {path} must NOT have fewer than {limit} properties",
        "maxProperties": f"Field {path} must NOT have more than {limit} properties",
        "uniqueItems": f"Field {path} must NOT have items that are equal",
        "anyOf": f"Field {path} needs url or requestsFromUrl",
    }
    return [sentences.get(keyword, f"Field {path} does not fit ({keyword})")]


def _missing(error: "jsonschema_rs.ValidationError") -> str:
    """Return the name of the required property that the error misses; empty: it is another error."""
    return str(getattr(error.kind, "property", "")).strip('"')


def _empty_column(error: "jsonschema_rs.ValidationError", path: str, value: Any, columns: Mapping[str, str]) -> str:
    """Return the beginning of a message which says that the column of a property is empty; empty: it is not."""
    if missing := _missing(error):
        column = columns.get(f"{path}.{missing}")
    else:
        for part in error.instance_path:
            value = value[part]
        column = None
        if value in ("", None):
            column = columns.get(path)
        elif value in ([], {}):  # what the template fills into it was left out
            column = next((columns[within] for within in columns if within.startswith(f"{path}.")), None)
    return "" if column is None else f"column {column!r} is empty: "


def _types(types: Any) -> str:
    return ",".join(map(str, types)) if isinstance(types, list) else str(types)


def _quoted(options: Any) -> str:
    if not isinstance(options, list):
        return str(options)
    return ", ".join(f'"{option}"' for option in options if option is not None)


def _brief(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]} …"
