"""Paths in a configuration: which keys hold them, and the directory that they are relative to."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel


def path_keys(config: type[BaseModel]) -> tuple[str, ...]:
    """Return the keys of a configuration's tables that hold paths, as `table.key`."""
    return tuple(_path_keys(config))


def _path_keys(config: type[BaseModel]) -> Iterator[str]:
    for section, table in config.model_fields.items():
        fields = getattr(table.annotation, "model_fields", {})
        yield from (f"{section}.{name}" for name, field in fields.items() if _holds_path(field.annotation))


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(_holds_path(each) for each in get_args(annotation))


def resolve_paths(values: dict[str, Any], keys: Collection[str], base: Path) -> None:
    """Resolve the paths under these keys against a directory."""
    for key in keys:
        section, name = key.split(".")
        table = values.get(section)
        if isinstance(table, dict) and name in table:
            table[name] = relative_to(base, table[name])


def relative_to(base: Path, value: Any) -> Any:
    """Resolve the value of a path key against a directory; "-" (stdin) and an empty value are left as they are."""
    if isinstance(value, list):
        return [relative_to(base, each) for each in value]
    return str(base / value) if isinstance(value, str) and value not in ("", "-") else value
