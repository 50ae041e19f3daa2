"""The house of design and style: one name, one thing."""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import batchrun

_ROOT = Path(batchrun.__file__).parent


def _modules() -> Iterator[Path]:
    return (file for file in sorted(_ROOT.rglob("*.py")) if file.stem not in ("__init__", "__main__"))


def _public_classes(file: Path) -> Iterator[str]:
    yield from re.findall(r"^ *class ([A-Za-z]\w*)", file.read_text("utf-8"), re.MULTILINE)


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


#: Calls that make a file or directory with the modes that the umask leaves.
_MAKES = re.compile(
    r"\.write_text\(|\.write_bytes\(|\.touch\(|\.mkdir\(|os\.open\([^)]*O_CREAT|open\([^)]*\"[wax]b?\"[^)]*\)"
)
#: What closes them: an opener or a mode beside the call; `fdopen` makes none.
_CLOSES = re.compile(r"private_opener|mode=0o700|0o600|fdopen")


def test_files_and_directories_are_made_for_their_user_only() -> None:
    """By `runtime/private_files.py`; a new Actor's project and a new batch file are their author's."""
    makers = (
        file
        for file in _modules()
        if file.stem not in {"private_files", "actors_command", "init_command", "zip_stream"}
    )
    lines = ((file, line) for file in makers for line in file.read_text("utf-8").splitlines())
    open_ones = [
        f"{file.name}: {line.strip()}" for file, line in lines if _MAKES.search(line) and not _CLOSES.search(line)
    ]
    assert open_ones == []


#: A command of batchrun with a value in it, within one f-string; {} stands for the value.
_COMMAND = re.compile(r"batchrun [a-z][^`.\n]*\{\}")


def _f_strings(file: Path) -> Iterator[str]:
    text = file.read_text("utf-8")
    nodes = ast.walk(ast.parse(text)) if "batchrun " in text else ()
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def test_no_message_puts_a_command_together_by_itself():
    """By `runtime/shell_command.py` alone: a directory's name, which others may choose, is pasted with the command."""
    written = [f"{file.name}: {text}" for file in _modules() for text in _f_strings(file) if _COMMAND.search(text)]
    assert written == []


#: What raises the errors of children in a group.
_GROUPS = ("create_task_group", ".serve")
_ANY_ERROR = {"BaseException", "Exception", "BaseExceptionGroup", "ExceptionGroup"}


def _catches_one_kind(node: ast.AST) -> bool:
    """True for `except OSError` or `suppress(OSError)`; `except*` finds errors in groups, too."""
    if isinstance(node, ast.Try):
        return any(each.type is not None and ast.unparse(each.type) not in _ANY_ERROR for each in node.handlers)
    return isinstance(node, ast.With | ast.AsyncWith) and any("suppress(" in ast.unparse(i) for i in node.items)


def test_no_error_is_caught_by_its_kind_around_a_task_group():
    """It comes in an ExceptionGroup, which goes on up: one connection that could not be accepted ended a server."""
    texts = {file.name: file.read_text("utf-8") for file in _modules()}
    around = [
        f"{name}:{node.lineno}"
        for name, text in texts.items()
        if any(f"{each}(" in text for each in _GROUPS)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.stmt) and _catches_one_kind(node)
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(_GROUPS)
    ]
    assert around == []


def test_tests_import_nothing_that_only_benchmarks_and_linters_install() -> None:
    """CI has all three extras while the tests run; who follows the README has `test` alone."""
    extras = tomllib.loads((_ROOT.parent / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {name: {re.split(r"[\[<>=~;]", each)[0].replace("-", "_") for each in extras[name]} for name in extras}
    others = "|".join(sorted((named["bench"] | named["lint"]) - named["test"]))
    imports = re.compile(rf"^ *(?:import|from) (?:{others})\b", re.MULTILINE)
    tests = (file for file in (_ROOT.parent / "tests").rglob("*.py") if "templates" not in file.parts)
    assert [str(file) for file in tests if imports.search(file.read_text("utf-8"))] == []
