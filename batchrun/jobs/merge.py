"""How an override meets the task's input: merged in depth, or what it loses where the API merges the top level only."""

from typing import Any

from batchrun.model import JsonObject


def deep_merge(under: JsonObject, over: JsonObject) -> JsonObject:
    """Return `over` laid over `under`: objects are merged at every level, all else is replaced whole."""
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = deep_merge(below, value) if type(below) is dict and type(value) is dict else value
    return merged


def nested_properties(task_input: JsonObject) -> JsonObject:
    """Return the properties of a task's input that can lose fields to a merge of the top level only."""
    return {name: value for name, value in task_input.items() if type(value) is dict and value}


def lost_fields(task_input: JsonObject, override: JsonObject) -> list[str]:
    """Return the task's properties that an override replaces by an object with fewer fields, at any level."""
    return [name for name, value in override.items() if _loses(task_input.get(name), value)]


def _loses(below: Any, over: Any) -> bool:
    if type(below) is not dict or type(over) is not dict:
        return False
    return any(name not in over or _loses(value, over[name]) for name, value in below.items())
