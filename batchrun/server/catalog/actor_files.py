"""Fingerprints of an Actor's directory: a quick one of names, sizes and times, and an exact one of contents.

Everything here reads the disk: callers on the loop use a thread.
"""

import base64
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from batchrun.model import JsonObject
from batchrun.server.catalog.ignore_rules import IgnoreRules, read_ignore_rules

#: Max bytes of a directory whose contents are hashed. Larger ones are compared by names, sizes and times, to be quick.
_MAX_DIGESTED_BYTES = 32 << 20

#: Max bytes of the files that the API shows. Source: the platform's limit of an Actor's source files.
_MAX_SHOWN_BYTES = 3 << 20


def signature(folder: Path) -> str:
    """Return a text that changes when a file is added, removed or written."""
    seen = hashlib.sha256()
    for path, found in _files(folder):
        seen.update(f"{path.relative_to(folder)}\0{found.st_size}\0{found.st_mtime_ns}\0".encode(errors="replace"))
    return seen.hexdigest()


def digest(folder: Path) -> str:
    """Return a text that changes when the content of a file changes."""
    files = list(_files(folder))
    if sum(found.st_size for _, found in files) > _MAX_DIGESTED_BYTES:
        return signature(folder)
    read = hashlib.sha256()
    for path, _ in files:
        content = _content(path)
        read.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode(errors="replace"))
        read.update(content)
    return read.hexdigest()


def source_files(folder: Path) -> list[JsonObject]:
    """Return the source files as the API shows them, as far as they fit into the platform's limit."""
    shown: list[JsonObject] = []
    left = _MAX_SHOWN_BYTES
    for path, found in _files(folder):
        left -= found.st_size
        if left < 0:
            break
        name, content = path.relative_to(folder).as_posix(), _content(path)
        try:
            shown.append({"name": name, "format": "TEXT", "content": content.decode()})
        except UnicodeDecodeError:
            shown.append({"name": name, "format": "BASE64", "content": base64.b64encode(content).decode()})
    return shown


def _content(path: Path) -> bytes:
    """Return what a file holds; nothing if it has vanished, or is another user's: the Actor may do without it."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the Actor's source files by name. Files that vanish meanwhile are skipped."""
    rules = read_ignore_rules(folder)
    for directory, folders, names in os.walk(folder):
        inside = Path(directory).relative_to(folder)
        folders[:] = sorted(name for name in folders if _is_source(inside / name, rules, is_directory=True))
        for name in sorted(names):
            path = Path(directory, name)
            try:
                found = path.stat()
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and _is_source(inside / name, rules, is_directory=False):
                yield path, found


def _is_source(path: Path, rules: IgnoreRules, *, is_directory: bool) -> bool:
    # `.actor` holds the definition and is never ignored; other hidden directories belong to tools.
    if path.parts[0] == ".actor":
        return True
    if is_directory and path.name.startswith("."):
        return False
    return not rules.ignore(path.as_posix(), is_directory=is_directory)
