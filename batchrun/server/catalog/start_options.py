"""The options of a start: their bounds, and whether start, task, Actor or settings decide. Pure."""

import base64
import binascii
import math
from typing import Any

import orjson

from batchrun.model import JsonObject
from batchrun.server.catalog.actor_catalog import Actor
from batchrun.server.error_answers import request_invalid, value_invalid
from batchrun.server.webhooks.webhook_book import new_webhook

#: Bounds of a Run's memory in MB, which is a power of two. Source: usage and resources.
MIN_MEMORY_MB, MAX_MEMORY_MB = 128, 32768
#: Max seconds of a time limit: about 30 years. The platform's plans allow less; this bound keeps arithmetic finite.
_MAX_TIMEOUT_S = 10**9
_NAMES = ("build", "timeoutSecs", "memoryMbytes", "maxItems", "maxTotalChargeUsd", "restartOnError")


def check_options(value: Any) -> JsonObject:
    """Return a task's options without those that are null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise request_invalid('Property "options" must be an object')
    return {name: _check(name, value[name]) for name in _NAMES if value.get(name) is not None}


def _check(name: str, value: Any) -> Any:
    if name == "build":
        if not isinstance(value, str) or not value:
            raise value_invalid("Option build must be a non-empty string")
        return value
    if name == "restartOnError":
        if not isinstance(value, bool):
            raise value_invalid("Option restartOnError must be a boolean")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise value_invalid(f"Option {name} must be a number that is not negative")
    if name == "maxTotalChargeUsd":
        return value
    return check_memory(value) if name == "memoryMbytes" else whole(name, value)


def whole(name: str, value: float) -> int:
    """Return a number without a fraction as an integer, up to the largest time limit."""
    if value != int(value) or value > _MAX_TIMEOUT_S:
        raise value_invalid(f"{name} must be a whole number up to {_MAX_TIMEOUT_S}")
    return int(value)


def check_memory(value: float) -> int:
    """Return a Run's memory in MB: a power of two within the platform's bounds."""
    memory_mb = int(value)
    if memory_mb != value or not MIN_MEMORY_MB <= memory_mb <= MAX_MEMORY_MB or memory_mb & (memory_mb - 1):
        raise value_invalid(f"Memory must be a power of 2 between {MIN_MEMORY_MB} and {MAX_MEMORY_MB} MB")
    return memory_mb


def decide(given: JsonObject, task: JsonObject, actor: Actor, memory_mb: int, timeout_s: int) -> JsonObject:
    """Return all options of a start: those given, else the task's, else the Actor's, else these defaults."""
    defaults = {
        "build": actor.build_tag,
        "timeoutSecs": timeout_s,
        "memoryMbytes": actor.default_memory_mb or memory_mb,
    }
    options = {**defaults, **task, **given}
    actor.check_build(options["build"])
    if not actor.min_memory_mb <= options["memoryMbytes"] <= actor.max_memory_mb:
        raise value_invalid(f"The Actor takes {actor.min_memory_mb} to {actor.max_memory_mb} MB of memory")
    # A Run shows this option only if it is set.
    return {name: value for name, value in options.items() if name != "restartOnError" or value}


def decode_webhooks(encoded: str | None) -> list[JsonObject]:
    """Return ad-hoc webhooks: base64 of a JSON array of objects with eventTypes and requestUrl."""
    if not encoded:
        return []
    try:
        webhooks = orjson.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        raise value_invalid("Parameter webhooks must be a base64-encoded JSON array") from None
    is_list = isinstance(webhooks, list) and all(isinstance(webhook, dict) for webhook in webhooks)
    if not is_list:
        raise value_invalid("Parameter webhooks must hold objects with eventTypes (array) and requestUrl (string)")
    for webhook in webhooks:
        # Raises if the webhook is invalid: no Run is started then.
        new_webhook("", webhook)
    return list(webhooks)
