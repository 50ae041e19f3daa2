"""Files and directories for this process's user only: the one place that knows how they are made and closed to others.

A directory has mode 0700, a file 0600. What exists already loses the rights of other users. No symbolic link is
followed from inside a directory; the directory itself may be reached by one. Nothing but regular files is opened: a
FIFO in the place of one would hold up whoever opens it. Modes are changed by descriptor or without following a link,
since the owner of a directory in which root works can put another thing in a file's place at any time.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from stat import S_IMODE, S_IRGRP, S_IROTH, S_ISDIR, S_ISLNK, S_ISREG, S_ISVTX, S_IWGRP, S_IWOTH, S_IXGRP, S_IXOTH

#: Max bytes of a file that is read whole: more than any of ours has.
MAX_WHOLE_BYTES = 64 << 20
#: What systems and people put into any directory.
_OF_SYSTEMS = (".gitignore", "lost+found", ".DS_Store")
_FOR_OTHERS = 0o077
#: Max names on the way to a directory, those of links among them: more than any path has.
_MAX_STEPS = 4096
_IS_ANOTHERS_TO_CLOSE = (
    "it is open to other users, and not yours to close; run this as its owner, or name a directory inside it"
)
_IS_ANOTHERS = "it belongs to another user; make it yours (chown), or remove it if you did not put it there"
_IS_PLANTED = "another user has made it in a directory that others may write to; name a directory elsewhere"
_IS_EXCHANGED = "another directory was put in its place while this one was in use"
_IS_NO_FILE = "it is no regular file (a FIFO, a device or a directory); remove it if you did not put it there"
_NAMES_A_FILE = "it names a file that SQLite would delete, as none of batchrun's does; remove it, if it is not yours"
_IS_OPEN = "other users can write to it, and so choose what is in it; close it (chmod go-w) if you trust what is there"
#: The end of a journal of SQLite that names another one, of a commit to several files. Source: SQLite, pager.c.
_NAMES_ANOTHER = bytes.fromhex("d9d505f920a163d7")
#: Directories into which others put files, and perhaps links.
_confined: list[Path] = []
#: What this process has opened, on Linux.
_OPEN_FILES = Path("/proc/self/fd")
#: Open directories of this process, by the path at which each was found.
_kept: dict[Path, int] = {}


@contextmanager
def confined(directory: Path) -> Iterator[None]:
    """Open nothing that a path inside a directory reaches outside of it, by a symbolic link, while the context lasts.

    Others may write to the directory. They can change a path after any check of it, so what was opened is looked at.
    """
    _confined.append(directory)
    try:
        yield
    finally:
        _confined.remove(directory)


@contextmanager
def kept_in_place(directory: Path, descriptor: int) -> Iterator[None]:
    """Open nothing by a path in an open directory, while the context lasts, if another one has taken its place.

    Its owner can exchange it for a link to any directory while root works in it.
    """
    path = directory.absolute()
    before = _kept.get(path)
    _kept[path] = descriptor
    try:
        yield
    finally:
        if before is None:
            del _kept[path]
        else:  # this process is in the directory already, and is refused here
            _kept[path] = before


def refuse_exchanged(descriptor: int, path: str) -> None:
    """Refuse an open directory if it was reached by way of another one than is kept there."""
    place = Path(path).absolute()
    for depth, each in enumerate((place, *place.parents)):
        if (kept := _kept.get(each)) is not None:
            found = os.stat("/".join([".", *[".."] * depth]), dir_fd=descriptor)
            if not os.path.samestat(found, os.fstat(kept)):
                raise OSError(errno.ESTALE, _IS_EXCHANGED, path)
        if each.name == "..":
            return  # what is left of it leads elsewhere


def is_confined(path: Path) -> bool:
    """True if a path lies in a directory into which others put files: what is there may be theirs."""
    return any(_lies_in(path.absolute(), each) for each in _confined)


def input_opener(path: str, flags: int) -> int:
    """Open a file that a person or a batch file names, as an `opener` of `open`; not outside of a confined directory.

    In a confined directory only a regular file is opened: to open a FIFO may take for ever. In a directory that is kept
    in place a file is opened from there, whatever its path leads to by now.
    """
    flags |= os.O_CLOEXEC | (os.O_NONBLOCK if _confined else 0)
    meant, kept = _from_kept(Path(path))
    descriptor = os.open(meant, flags, dir_fd=kept)
    try:
        if _refuse_escape(descriptor, path) and not S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, _IS_NO_FILE, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def stat_in_place(path: Path) -> os.stat_result:
    """Return what is at a path, as `input_opener` would open it. Raises OSError."""
    meant, kept = _from_kept(path)
    return os.stat(meant, dir_fd=kept)


def is_absent(path: Path) -> bool:
    """True if there is nothing at a path for `input_opener`; what cannot be told is there."""
    try:
        stat_in_place(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def _from_kept(path: Path) -> tuple[Path, int | None]:
    """Return a path from a directory that is kept in place, and that directory; the path and None if it is in none."""
    place = path.absolute()
    for each in (place, *place.parents) if _kept else ():
        if (kept := _kept.get(each)) is not None:
            return place.relative_to(each), kept
    return path, None


def _refuse_escape(descriptor: int, path: str) -> bool:
    """Refuse what was opened by a path inside a confined directory and lies outside; return whether there is one."""
    within = [each for each in _confined if _lies_in(Path(path).absolute(), each)]
    for each in within:
        if not _lies_in(_real_path(descriptor), each):
            raise OSError(errno.ELOOP, f"a symbolic link leads out of {each}, and is not followed", path)
    return bool(within)


def _lies_in(path: Path, directory: Path) -> bool:
    for parent in path.parents:
        with suppress(OSError):
            if parent.samefile(directory):
                return True
    return False


def _real_path(descriptor: int) -> Path:
    if sys.platform == "darwin":
        return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def private_opener(path: str, flags: int, within: int | None = None) -> int:
    """Open a regular file, as an `opener` of `open`: mode 0600, a symbolic link is an error.

    A file that exists with a wider mode is narrowed, if it is opened for writing.

    Args:
        path: of the file.
        flags: as `os.open` takes them.
        within: the open directory that the file is in, if the path is a name; its own path is not looked at.
    """
    try:
        # Without blocking: a FIFO is opened only once it has another end.
        descriptor = _open_in_bounds(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, within)
    except OSError as error:
        if error.errno == errno.ELOOP and within is None:
            refuse_link(Path(path))
        if error.errno == errno.ENXIO:  # a FIFO that nobody reads, or a socket
            raise OSError(error.errno, _IS_NO_FILE, path) from None
        raise
    try:
        if not S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, _IS_NO_FILE, path)
        if flags & (os.O_WRONLY | os.O_RDWR):
            _narrow(descriptor, path, _IS_ANOTHERS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _open_in_bounds(path: str, flags: int, within: int | None) -> int:
    """Open a file that is no link, once it is known that its directory is where, and the one that, it should be."""
    if not (_confined or _kept) or within is not None:
        return os.open(path, flags, 0o600, dir_fd=within)
    parent, name = os.path.split(path)
    directory = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _refuse_escape(directory, parent)
        refuse_exchanged(directory, parent)
        return os.open(name, flags, 0o600, dir_fd=directory)
    finally:
        os.close(directory)


def read_private(file: Path, max_bytes: int = MAX_WHOLE_BYTES, within: int | None = None) -> bytes:
    """Return the content of a regular file, empty if it is larger than `max_bytes`; a symbolic link is an error.

    Others may have put the file there: it takes no room on the disk, and says that it has terabytes. `within` is as
    in `private_opener`.
    """
    with open(file, "rb", opener=partial(private_opener, within=within)) as opened:
        content = opened.read(max_bytes + 1)
        return content if len(content) <= max_bytes else b""


def make_private_file(file: Path) -> None:
    """Create an empty file, or narrow one that exists, for a library that opens it by its path.

    An existing file is not opened: closing it would drop the locks that this process has on it.
    """
    try:
        os.close(private_opener(str(file), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        refuse_link(file)
        _narrow(file, str(file), _IS_ANOTHERS)


def refuse_link(path: Path) -> None:
    """Raise OSError if a path is a symbolic link: it could lead anywhere, and its owner can change where."""
    if path.is_symlink():
        raise OSError(
            errno.ELOOP, "it is a symbolic link, which is not followed here; put the file itself in its place"
        )


def refuse_special(database: Path) -> None:
    """Raise OSError if SQLite would do harm by opening a database: it opens it, and the files beside it, by path.

    Each has to be a regular file. A journal may name any file as another journal, which SQLite deletes once it has
    undone what the journal is of.
    """
    for each in (database.with_name(database.name + end) for end in ("", "-wal", "-shm", "-journal")):
        if each.exists() and not each.is_file():
            raise OSError(errno.EINVAL, _IS_NO_FILE, str(each))
    journal = database.with_name(f"{database.name}-journal")
    if journal.exists() and _last_bytes(journal, len(_NAMES_ANOTHER)) == _NAMES_ANOTHER:
        raise OSError(errno.EINVAL, _NAMES_A_FILE, str(journal))


def refuse_opened_elsewhere(database: Path, journal_mode: str) -> None:
    """Raise OSError if a database that SQLite has opened, by its path, is not the one in a directory kept in place.

    Where a process cannot see what it has opened, nothing is refused.

    Args:
        database: is open for writing, and has been read: SQLite opens its log with that.
        journal_mode: as SQLite says. Some file systems have no `wal`.
    """
    meant, kept = _from_kept(database)
    if kept is None or not _OPEN_FILES.is_dir():
        return
    opened = set()
    for each in _OPEN_FILES.iterdir():
        with suppress(OSError):  # closed meanwhile
            found = os.fstat(int(each.name))
            opened.add((found.st_dev, found.st_ino))
    for end in ("", "-wal", "-shm") if journal_mode == "wal" else ("",):
        with suppress(FileNotFoundError):
            found = os.stat(f"{meant}{end}", dir_fd=kept)
            if (found.st_dev, found.st_ino) in opened:
                continue
        raise OSError(errno.ESTALE, _IS_EXCHANGED, str(database))


def _last_bytes(file: Path, count: int) -> bytes:
    with open(file, "rb", opener=private_opener) as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - count))
        return opened.read()


def refuse_anothers(file: Path, found: os.stat_result) -> None:
    """Raise OSError if what was found at a path is another user's: he knows or has chosen what is in it.

    Its directory is closed to others by now. Root works in directories of others, whose files are in them.
    """
    if _is_anothers(found) and (os.geteuid() != 0 or found.st_uid != stat_in_place(file.parent).st_uid):
        raise PermissionError(errno.EPERM, _IS_ANOTHERS, str(file))


def others_can_read(file: Path) -> bool:
    """Return whether other users can read a file that is this user's to close; what cannot be told is False.

    A container's secrets are not: they are root's, or on a mount that is read-only.
    """
    try:
        found, on = file.stat(), os.statvfs(file)
        is_reachable = all(each.stat().st_mode & (S_IXGRP | S_IXOTH) for each in file.resolve().parents)
    except (OSError, ValueError):
        return False
    is_own = found.st_uid == os.geteuid() and not on.f_flag & os.ST_RDONLY
    return is_own and is_reachable and S_ISREG(found.st_mode) and bool(found.st_mode & (S_IRGRP | S_IROTH))


@contextmanager
def held_own_directory(directory: Path) -> Iterator[int]:
    """Hold a directory open; root is asked to trust its owner.

    Raises:
        OSError: another user may have chosen what is in it, or it cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        _refuse_planted(directory, found)
        if os.geteuid() not in (0, found.st_uid):
            raise PermissionError(errno.EPERM, _IS_ANOTHERS, str(directory))
        if found.st_mode & (S_IWGRP | S_IWOTH):
            raise PermissionError(errno.EPERM, _IS_OPEN, str(directory))
        yield descriptor
    finally:
        os.close(descriptor)


def make_private_directory(directory: Path, *, follows_link: bool = True) -> None:
    """Create a directory with mode 0700, or narrow one that exists.

    Raises:
        OSError: it cannot be created, is another user's, is shared by all users, as `/tmp` is, or is a symbolic link
            that is not to be followed.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    close_directory(directory, follows_link=follows_link)


def keep_out_of_git(directory: Path, own: Iterable[str]) -> None:
    """Let git leave out batchrun's files in a directory, which hold tokens; a `.gitignore` that exists is left.

    Args:
        directory: of this user, before or after anything is written there; a person may keep other files in it.
        own: patterns of the names of batchrun's files in it.
    """
    with suppress(FileExistsError), open(directory / ".gitignore", "x", opener=private_opener) as file:
        file.write("".join(f"/{name}\n" for name in (".gitignore", *own)))


def names_of_others(directory: Path, own: Iterable[str]) -> list[str]:
    """Return the names in a directory that neither batchrun's files have nor what systems put into any, sorted. Blocks.

    Args:
        directory: to be used; one that does not exist has none.
        own: patterns of the names of batchrun's files in it.
    """
    names = sorted(each.name for each in directory.iterdir()) if directory.is_dir() else []
    return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in (*own, *_OF_SYSTEMS))]


def close_directory(directory: Path, *, follows_link: bool = True) -> None:
    """Narrow a directory; see `make_private_directory`."""
    os.close(open_closed_directory(directory, follows_link=follows_link))


def open_closed_directory(directory: Path, *, follows_link: bool = True) -> int:
    """Narrow a directory as `close_directory` does, and return it open: by its path, another could be meant later."""
    how = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        descriptor = os.open(directory, how if follows_link else how | os.O_NOFOLLOW)
    except NotADirectoryError:  # Linux says that of a link, too
        refuse_link(directory)
        raise
    try:
        found, parent = os.fstat(descriptor), os.stat("..", dir_fd=descriptor)
        if _is_shared(found) or os.path.samestat(found, parent):
            raise PermissionError(errno.EPERM, "all users share it; name a directory inside it", str(directory))
        _refuse_planted(directory, found)
        _refuse_escape(descriptor, str(directory))
        refuse_exchanged(descriptor, str(directory))
        _narrow(descriptor, str(directory), _IS_ANOTHERS_TO_CLOSE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_planted(directory: Path, found: os.stat_result) -> None:
    """Refuse a directory if a link that another user has planted leads to it, and for root also one that he has made.

    Planted is what is in a directory that all may write to, for root also a group, and is that of another user than the
    directory's. Root works in directories of others, to which he was led by their owners; other users are refused there
    anyhow, and follow the links of those with whom they share a directory.
    """
    is_root = os.geteuid() == 0
    writers = S_IWOTH | (S_IWGRP if is_root else 0)
    place, names = Path.cwd(), [*reversed(directory.parts)]
    for _ in range(_MAX_STEPS):
        if not names:
            break
        if (name := names.pop()) in ("/", ".."):
            place = Path("/") if name == "/" else place.parent
            continue
        step = place / name
        entry, around = step.lstat(), place.lstat()
        is_planted = _is_anothers(entry) and entry.st_uid != around.st_uid and around.st_mode & writers
        if is_planted and (S_ISLNK(entry.st_mode) or is_root):
            raise PermissionError(errno.EPERM, _IS_PLANTED, str(step))
        if S_ISLNK(entry.st_mode):
            names += reversed(step.readlink().parts)
        else:
            place = step
    if not os.path.samestat(place.lstat(), found):
        raise OSError(errno.ESTALE, _IS_EXCHANGED, str(directory))


def _is_anothers(found: os.stat_result) -> bool:
    return found.st_uid not in (0, os.geteuid())


def _is_shared(directory: os.stat_result) -> bool:
    """Return whether all users put files into a directory, as into `/tmp`."""
    return bool(directory.st_mode & S_ISVTX and directory.st_mode & S_IWOTH)


def close_to_others(path: Path | str, within: int | None = None) -> None:
    """Narrow what an earlier version left open: a file, or a directory with all in it.

    A closed directory is not looked into: others do not get past it. Links and what cannot be changed are left alone.

    Args:
        path: of what is narrowed.
        within: the open directory that a relative path is in.
    """
    with suppress(OSError):
        found = os.stat(path, dir_fd=within, follow_symlinks=False)
        if S_ISLNK(found.st_mode) or not found.st_mode & _FOR_OTHERS:
            return
        _chmod(path, found, within)
        if S_ISDIR(found.st_mode):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
            try:
                for each in os.listdir(descriptor):  # noqa: PTH208 - of an open directory
                    close_to_others(each, descriptor)
            finally:
                os.close(descriptor)


def _chmod(file: Path | str | int, found: os.stat_result, within: int | None = None) -> None:
    mode = S_IMODE(found.st_mode) & ~_FOR_OTHERS
    if isinstance(file, int):
        os.fchmod(file, mode)
    elif hasattr(os, "O_PATH"):
        # Names the file without opening it, which would drop locks; fails on a link.
        descriptor = os.open(file, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", mode)  # noqa: PTH101
        finally:
            os.close(descriptor)
    else:
        os.chmod(file, mode, dir_fd=within, follow_symlinks=False)


def _narrow(file: Path | int, path: str, refusal: str) -> None:
    found = os.fstat(file) if isinstance(file, int) else file.lstat()
    if not found.st_mode & _FOR_OTHERS:
        return
    try:
        _chmod(file, found)
    except PermissionError as error:
        if found.st_uid != os.geteuid():
            raise PermissionError(error.errno, refusal, path) from None
        # A file system without modes: all its files look alike.
