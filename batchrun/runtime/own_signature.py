"""What this user has noted on this machine, recognised later by a signature.

The key is in the user's home, where nobody who supplies a directory knows it.
"""

import errno
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from batchrun.runtime.private_files import private_opener

_KEY_BYTES = 32


def sign(content: bytes) -> str:
    """Return the signature of this user; empty if there is no home in which a key can be kept."""
    with suppress(OSError, RuntimeError):  # without a home
        file = _key_file()
        return _signature(_read_key(file) or _make_key(file), content)
    return ""


def is_own(content: bytes, signature: str) -> bool:
    """True if this user has signed this content."""
    with suppress(OSError, RuntimeError):
        key = _read_key(_key_file())
        return key != b"" and hmac.compare_digest(_signature(key, content).encode(), signature.encode())
    return False


def _signature(key: bytes, content: bytes) -> str:
    return hmac.digest(key, content, "sha256").hex()


def _key_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state") / "batchrun" / "key"


def _read_key(file: Path) -> bytes:
    """Return the key; empty if there is none, or another user may know it."""
    with suppress(FileNotFoundError), open(file, "rb", opener=private_opener) as opened:
        found, key = os.fstat(opened.fileno()), opened.read(_KEY_BYTES + 1)
        if found.st_uid == os.geteuid() and not found.st_mode & 0o077 and len(key) == _KEY_BYTES:
            return key
    return b""


def _make_key(file: Path) -> bytes:
    """Make a key; of processes that make one at once, all return that of the first."""
    _refuse_anothers_home(file)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key, beside = secrets.token_bytes(_KEY_BYTES), file.with_name(f".key.{secrets.token_hex(8)}")
    try:
        with open(beside, "xb", opener=private_opener) as opened:
            opened.write(key)
        os.link(beside, file)  # unless there is one
    except OSError:
        if known := _read_key(file):
            return known
        beside.replace(file)  # of what is no key, or on a file system without links
    finally:
        beside.unlink(missing_ok=True)
    return key


def _refuse_anothers_home(file: Path) -> None:
    """Raise OSError if root, say, has the home of another user: the key in it is of that one, and stays."""
    found = next(each for each in (file, *file.parents) if each.exists() or each.is_symlink())
    if found.lstat().st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, "it belongs to another user", str(found))
