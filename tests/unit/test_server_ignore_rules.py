"""What of an Actor's directory is a by-product."""

import pytest

from batchrun.server.catalog.ignore_rules import IgnoreRules


@pytest.mark.parametrize(
    ("lines", "path", "is_directory", "ignored"),
    [
        ([], "src/main.py", False, False),
        ([], "src/__pycache__", True, True),
        ([], "storage", True, True),
        ([], "src/storage.py", False, False),
        ([], "storage", False, False),
        ([], "a/b/run.log", False, True),
        (["!run.log"], "a/b/run.log", False, False),
        (["out.json"], "out.json", False, True),
        (["out.json"], "a/out.json", False, True),
        (["/out.json"], "out.json", False, True),
        (["/out.json"], "a/out.json", False, False),
        (["a/*.json"], "a/x.json", False, True),
        (["a/*.json"], "a/b/x.json", False, False),
        (["a/*.json"], "b/a/x.json", False, False),
        (["a/**/x"], "a/x", False, True),
        (["a/**/x"], "a/b/c/x", False, True),
        (["**/x"], "b/x", False, True),
        (["a/**"], "a/b/c", False, True),
        (["a/**"], "a", True, False),
        (["tmp/"], "tmp", False, False),
        (["tmp/"], "b/tmp", True, True),
        (["f?[0-9].[!c]*"], "fx1.py", False, True),
        (["f?[0-9].[!c]*"], "fx1.cc", False, False),
        (["# comment", "", "   "], "# comment", False, False),
        (["\\#file"], "#file", False, True),
        (["*", "!keep"], "keep", False, False),
        (["*", "!keep"], "other", False, True),
        (["[z-a]", "x.(a|b)+"], "x.(a|b)+", False, True),
        (["x.(a|b)+"], "x.a", False, False),
    ],
)
def test_patterns_are_those_of_git(lines, path, is_directory, ignored):
    """The last that fits counts; custom comes first."""
    assert IgnoreRules(lines).ignore(path, is_directory=is_directory) is ignored
