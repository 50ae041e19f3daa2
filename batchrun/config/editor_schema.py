"""The JSON Schema of a configuration, for editors; each key is described by the docstring below it."""

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from batchrun.config.section import Section


def editor_schema(model: type[Section], title: str) -> dict[str, Any]:
    """Return a configuration's JSON Schema.

    pydantic's `use_attribute_docstrings` would describe the keys as well, but it reads the source with every import of
    the sections, a quarter of the time until a command has its configuration.
    """
    schema = model.model_json_schema()
    tables = schema["$defs"]
    for each in (model, *_sections(Section)):
        table = schema if each is model else tables.get(each.__name__)
        for name, text in _docstrings_of(each).items() if table is not None else ():
            table["properties"][name].setdefault("description", text)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def _sections(base: type[Section]) -> list[type[Section]]:
    return [each for section in base.__subclasses__() for each in (section, *_sections(section))]


def _docstrings_of(section: type[Section]) -> dict[str, str]:
    """Return the docstring below each key, those of inherited keys included."""
    found: dict[str, str] = {}
    for each in reversed(section.__mro__):
        if issubclass(each, BaseModel) and each is not BaseModel:
            found |= _docstrings_in(each.__module__).get(each.__name__, {})
    return found


@cache
def _docstrings_in(module: str) -> dict[str, dict[str, str]]:
    """Return the docstring below each annotated name of the classes of a module, by class."""
    source = ast.parse(inspect.getsource(sys.modules[module]))
    return {each.name: dict(_docstrings_below(each)) for each in source.body if isinstance(each, ast.ClassDef)}


def _docstrings_below(section: ast.ClassDef) -> list[tuple[str, str]]:
    return [
        (line.target.id, inspect.cleandoc(text.value.value))
        for line, text in pairwise(section.body)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    ]
