"""Which files of an Actor's directory are by-products, not source: by custom, and by its ignore files.

The patterns are git's: `*`, `?`, `[a-z]`, `**`. `!` excepts paths, a slash at the end means directories only, any other
slash anchors a pattern at the top. The last pattern that matches counts. `.dockerignore` is read the same way.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from batchrun.runtime.fast_dataclasses import dataclass

#: Read in this order, at the top of the directory only.
_FILES = (".gitignore", ".dockerignore", ".actorignore")
#: Installed packages, caches, build results, and what Actors write when run without a platform.
_CUSTOMARY = (
    "node_modules/", "venv/", "__pycache__/", "*.egg-info/", "dist/", "build/", "storage/", "apify_storage/",
    "*.pyc", "*.pyo", "*.log", "*.tmp", "*.swp", "*~", ".DS_Store",
)  # fmt: skip
_PART = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]|\\.|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    is_for_directories: bool
    ignores: bool


class IgnoreRules:
    """The rules of one directory."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = list(_parse((*_CUSTOMARY, *lines)))

    def ignore(self, path: str, *, is_directory: bool) -> bool:
        """True if a relative path (with slashes) is a by-product; so are all paths in an ignored directory."""
        fitting = (
            rule
            for rule in reversed(self._rules)
            if (is_directory or not rule.is_for_directories) and rule.pattern.fullmatch(path)
        )
        return next((rule.ignores for rule in fitting), False)


def read_ignore_rules(folder: Path) -> IgnoreRules:
    """Read a directory's rules. A missing or unreadable file has none."""
    lines: list[str] = []
    for name in _FILES:
        try:
            lines += (folder / name).read_text("utf-8-sig", errors="replace").splitlines()
        except OSError:
            continue
    return IgnoreRules(lines)


def _parse(lines: Iterable[str]) -> Iterator[_Rule]:
    for line in lines:
        text = line.rstrip()
        if not text or text.startswith("#"):
            continue
        is_exception = text.startswith("!")
        text = text[1:] if is_exception else text
        bare = text.rstrip("/")
        try:
            pattern = re.compile(_expression(bare))
        except re.error:
            continue  # a class like [z-a] matches nothing
        yield _Rule(pattern, is_for_directories=text != bare, ignores=not is_exception)


def _expression(pattern: str) -> str:
    segments = pattern.removeprefix("./").lstrip("/").split("/")
    top = "" if "/" in pattern else "(?:.*/)?"
    *before, last = segments
    inner = "".join("(?:[^/]+/)*" if segment == "**" else f"{_glob(segment)}/" for segment in before)
    return top + inner + (".+" if last == "**" else _glob(last))


def _glob(segment: str) -> str:
    return "".join(map(_translated, _PART.findall(segment)))


def _translated(part: str) -> str:
    if part[0] == "*":
        return "[^/]*"
    if part == "?":
        return "[^/]"
    if part[0] == "[" and len(part) > 2:
        return f"[^{part[2:-1]}]" if part[1] == "!" else part
    return re.escape(part[1:] if len(part) > 1 else part)
