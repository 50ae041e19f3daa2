"""Renders payload and headers of a webhook's request from templates: JSON with `{{variables}}`. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from batchrun.model import JsonObject
from batchrun.server.content.json_text import JSON_STRING
from batchrun.server.error_answers import value_invalid

#: Source: webhook actions, "Default payload template".
DEFAULT_PAYLOAD = """{
    "userId": {{userId}},
    "createdAt": {{createdAt}},
    "eventType": {{eventType}},
    "eventData": {{eventData}},
    "resource": {{resource}}
}"""
#: Max characters of a template: each of its variables may become the JSON of a whole Run.
_MAX_TEMPLATE = 65_536
#: Max characters of what it makes with its variables: hundreds of whole Runs.
_MAX_RENDERED = 1 << 20
_IN_STRING = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")
#: A JSON string, or a variable outside of strings.
_PARTS = re.compile(f"({JSON_STRING})|{_IN_STRING.pattern}", re.DOTALL)


class PayloadTooLarge(Exception):
    """A template with its variables replaced is larger than a request may be."""


def render(template: str, variables: Mapping[str, Any], *, interpolates_strings: bool) -> str:
    """Return the template with its variables replaced.

    Args:
        template: a variable outside of strings becomes its JSON; an unknown one becomes null.
        variables: a dotted name reads a nested value.
        interpolates_strings: True: variables in strings are replaced too, as text.

    Raises:
        PayloadTooLarge: it would have more than _MAX_RENDERED characters.
    """
    size = len(template)

    def counted(value: str) -> str:
        nonlocal size
        size += len(value)
        if size > _MAX_RENDERED:
            raise PayloadTooLarge(f"the template makes more than {_MAX_RENDERED:,} characters with its variables")
        return value

    def part(found: re.Match[str]) -> str:
        if found[1] is None:
            return counted(orjson.dumps(_look_up(variables, found[2])).decode())
        return _IN_STRING.sub(text, found[1]) if interpolates_strings else found[1]

    def text(found: re.Match[str]) -> str:
        value = _look_up(variables, found[1])
        plain = value if isinstance(value, str) else orjson.dumps(value).decode()
        return counted(orjson.dumps(plain).decode()[1:-1])

    return _PARTS.sub(part, template)


def check(name: str, template: Any) -> None:
    """Check that a template is JSON once its variables are replaced."""
    if template is None:
        return
    if isinstance(template, str) and len(template) > _MAX_TEMPLATE:
        raise value_invalid(f'Property "{name}" may have up to {_MAX_TEMPLATE} characters')
    try:
        value = orjson.loads(render(template, {}, interpolates_strings=False)) if isinstance(template, str) else None
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise value_invalid(
            f'Property "{name}" must be a string that is a JSON object with variables like {{{{userId}}}}'
        )


def render_headers(webhook: JsonObject, variables: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that a webhook's template adds, without those that cannot be sent."""
    template = webhook.get("headersTemplate")
    if not template:
        return {}
    rendered = render(template, variables, interpolates_strings=bool(webhook.get("shouldInterpolateStrings")))
    try:
        given = orjson.loads(rendered)
    except orjson.JSONDecodeError:
        return {}
    return dict(_sendable(given)) if isinstance(given, dict) else {}


def _sendable(given: JsonObject) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        shown = value if isinstance(value, str) else orjson.dumps(value).decode()
        if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and shown.isprintable():
            yield name, shown


def _look_up(variables: Mapping[str, Any], path: str) -> Any:
    value: Any = variables
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
