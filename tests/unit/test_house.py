"""The house of design and style: one name, one thing."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import batchrun

_ROOT = Path(batchrun.__file__).parent


def _modules() -> Iterator[Path]:
    return (file for file in sorted(_ROOT.rglob("*.py")) if file.stem not in ("__init__", "__main__"))


def _public_classes(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def test_no_module_name_occurs_twice() -> None:
    """Two files of one name are told apart by their folders only: each module is named for the one thing it holds."""
    places = defaultdict(list)
    for file in _modules():
        places[file.stem].append(str(file.relative_to(_ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_public_class_name_occurs_twice() -> None:
    """A reader who meets a class's name knows which class is meant."""
    places = defaultdict(list)
    for file in _ROOT.rglob("*.py"):
        for name in _public_classes(file):
            places[name].append(str(file.relative_to(_ROOT)))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice == {}
