"""What this tool may touch: files and folders that it can prove to be its own, never a link's end.

A lock file and a folder for unfinished work say in themselves who made them and for which target.
Whatever else has such a name is somebody's, and is refused by name. Inside a folder of ours only
the files that the caller knows are removed; what else lies there stays, and keeps its folder.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from frictionstore.errors import BusyError, StoreError
from frictionstore.io.base import TOKEN
from frictionstore.io.durable import explain_os_errors, fsync_descriptor, fsync_path
from frictionstore.io.locate import refuse_inside_store
from frictionstore.io.regular import inside
from frictionstore.text import listed, printable

logger = logging.getLogger(__name__)

Ours = Callable[[str], bool]
"""Whether a path in a folder (that of a folder ends in a slash) is one that this tool writes."""

_PLAINLY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # no link's end, and no wait for a pipe's
_AT_FDCWD = -100
_NO_REPLACE = 1
_EXCHANGE = 2  # of Linux's renameat2
_TEXT_BYTES = 1024  # locks and marks are padded to this and written over, so never empty
_NOT_HERE = (FileNotFoundError, NotADirectoryError)


# ---- one writer at a time --------------------------------------------------------------------


@contextmanager
def claimed(target: Path, *, alone: bool = True) -> Iterator[Path]:
    """Hold the right to write `target`, `alone` or not, in a folder made where it is missing.

    Yields
    ------
    Path
        What to write: where `target` is a link, what it leads to, once and for all.

    Raises
    ------
    StoreError
        The folder cannot be written or lies in a store, its disk is full, `target` is a link to
        nothing, or a file that is no lock has the lock's name.
    BusyError
        Another process holds the target.
    """
    with ExitStack() as stack:
        with explain_os_errors(str(target), "choose a folder that can be written"):
            real = _resolved(target)
            refuse_inside_store(real)
            real.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(real) if alone else nullcontext())
        yield real


def _resolved(target: Path) -> Path:
    if not target.is_symlink():
        return target
    try:
        real = target.resolve(strict=True)
    except (OSError, RuntimeError):
        what = "is a link that leads to nothing: remove it, or choose another target"
        raise StoreError(f"{printable(target)} {what}") from None
    logger.warning("%s is a link: what it leads to is written, %s", *map(printable, (target, real)))
    return real


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold the right to write `target`; the lock file ``<target>.lock`` says who does.

    The lock is the operating system's (`flock`), so it ends with its process, however that ends.

    Raises
    ------
    BusyError
        Another process holds it.
    StoreError
        Something that is no lock has the lock's name.
    """
    path = target.with_name(target.name + ".lock")
    while True:
        descriptor = _open_lock(path, target)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise BusyError(
                f"{printable(target)} is being written by {holder}: wait until it has ended, "
                "or choose another target"
            ) from None
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # the former holder removed the file between our open and our lock
    try:
        os.pwrite(descriptor, _lock_text(), 0)
        yield
    finally:
        if _is_at(descriptor, path):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_lock(path: Path, target: Path) -> int:
    """The lock file, made where it is missing; it never exists without its text."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | _PLAINLY)
        except FileNotFoundError:
            with suppress(FileExistsError):
                return _new_lock(path)
            continue
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
        else:
            if _lock_entry(descriptor) is not None:
                return descriptor
            os.close(descriptor)
        raise StoreError(
            f"{printable(path)} is not a lock of frictionstore, which needs the name while it "
            f"writes {printable(target.name)}: move it away, or choose another target"
        )


def _new_lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    with suppress(OSError, AttributeError), ExitStack() as stack:  # not on every file system
        descriptor = os.open(path.parent, flags | os.O_TMPFILE, 0o644)
        stack.callback(os.close, descriptor)
        os.pwrite(descriptor, _lock_text(), 0)
        # with a folder's descriptor, or Python does not follow the link under /proc
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
        stack.pop_all()
        return descriptor
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.pwrite(descriptor, _lock_text(), 0)
    except BaseException:
        if _is_at(descriptor, path):
            path.unlink()
        os.close(descriptor)
        raise
    return descriptor


def _lock_text() -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"pid": os.getpid(), "host": socket.gethostname()[:100], "since": since}
    return json.dumps(entry).encode().ljust(_TEXT_BYTES)


def _lock_entry(descriptor: int) -> dict[str, Any] | None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    entry = _object(os.pread(descriptor, 4096, 0))
    return entry if entry is not None and entry.keys() == {"pid", "host", "since"} else None


def _holder(descriptor: int) -> str:
    entry = _lock_entry(descriptor)
    if entry is None:
        return "another process"
    return (
        f"process {printable(entry['pid'], 20)} on {printable(entry['host'])} "
        f"since {printable(entry['since'])}"
    )


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except _NOT_HERE:
        return False


# ---- folders of ours -------------------------------------------------------------------------


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_plain(folder: Path, name: str, most: int) -> bytes | None:
    """The first bytes of a plain file of a folder; None where it is none, or either is a link."""
    try:
        with _opened(folder) as here:
            descriptor = os.open(name, _PLAINLY, dir_fd=here)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def made_for(folder: Path, target: Path) -> str | None:
    """What `folder` is for, if it is one of ours that belongs to `target`; None otherwise."""
    entry = _object(read_plain(folder, TOKEN, 4096) or b"")
    if entry is None or entry.get("target") != target.name:
        return None
    made = entry.get("frictionstore")
    return made if isinstance(made, str) else None


def mark(folder: Path, target: Path, what: str) -> None:
    """Say in `folder` that it is ours, for `target`, and `what` it is."""
    with _opened(folder) as here:
        # written over in place: a mark is never empty between two that say something
        descriptor = os.open(TOKEN, _PLAINLY | os.O_RDWR | os.O_CREAT, 0o644, dir_fd=here)
        ours = _is_mark(descriptor)
        try:
            if not ours:
                raise not_ours(folder / TOKEN, target)
            text = json.dumps({"frictionstore": what, "target": target.name})
            os.pwrite(descriptor, text.encode().ljust(_TEXT_BYTES), 0)
            fsync_descriptor(descriptor)
        finally:
            empty = os.fstat(descriptor).st_size == 0
            os.close(descriptor)
            if ours and empty:  # the disk is full
                os.unlink(TOKEN, dir_fd=here)
        fsync_descriptor(here)


def unmark(folder: Path, target: Path) -> None:
    """Take back what `mark` said; nothing happens where it said nothing."""
    if made_for(folder, target) is not None:
        drop(folder, TOKEN)


def drop(folder: Path, key: str) -> None:
    """Remove a file that we write in a folder of ours, where it is there; no link is followed."""
    with suppress(*_NOT_HERE), inside(folder, key) as (here, name):
        os.unlink(name, dir_fd=here)


def take(folder: Path, target: Path, what: str, *, known: bool = False) -> str | None:
    """Make `folder` for work on `target`, or take up what an earlier run left.

    Parameters
    ----------
    folder, target : Path
    what : str
        What the folder is for, where it is made.
    known : bool
        The caller has other proof that the folder is ours.

    Returns
    -------
    str or None
        What the folder was for, None where it is new.

    Raises
    ------
    StoreError
        Something of that name is not ours.
    """
    try:
        os.mkdir(folder)
    except FileExistsError:
        found = made_for(folder, target)
        if found is not None:
            return found
        if not known and not _bare(folder):
            raise not_ours(folder, target) from None
        mark(folder, target, what)
        return what if known else None
    try:
        mark(folder, target, what)
    except BaseException:
        with suppress(OSError):
            os.rmdir(folder)
        raise
    fsync_path(folder.parent)
    return None


def _bare(folder: Path) -> bool:
    """An empty folder: what a run leaves that ends before it has marked what it made."""
    try:
        with _opened(folder) as here:
            names = os.listdir(here)
            return not names or (
                names == [TOKEN] and os.stat(TOKEN, dir_fd=here, follow_symlinks=False).st_size == 0
            )
    except OSError:
        return False


def not_ours(path: Path, target: Path) -> StoreError:
    return StoreError(
        f"{printable(path)} is in the way: it is not what an interrupted run left for "
        f"{printable(target.name)}, and frictionstore needs the name; move it away, or choose "
        "another target"
    )


def _is_mark(descriptor: int) -> bool:
    """Whether an open file is a mark, whatever it says, or one that was only just begun."""
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        return False
    return not facts.st_size or "frictionstore" in (_object(os.pread(descriptor, 4096, 0)) or {})


def _is_ours(key: str, name: str, here: int, ours: Ours) -> bool:
    mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        return ours(key + "/")
    if key != TOKEN:
        return stat.S_ISREG(mode) and ours(key)
    try:
        descriptor = os.open(name, _PLAINLY, dir_fd=here)
    except OSError:
        return False
    try:
        return _is_mark(descriptor)
    finally:
        os.close(descriptor)


def strangers(folder: Path, ours: Ours) -> list[str]:
    """Paths of whatever lies in `folder` and is not a plain file or folder of ours, sorted."""
    with _opened(folder) as top:
        return sorted(key for key, name, here in _walk(top) if not _is_ours(key, name, here, ours))


def refuse_strangers(folder: Path, ours: Ours) -> None:
    """
    Raises
    ------
    StoreError
        Names what lies in `folder` and would be lost with it.
    """
    found = strangers(folder, ours)
    if found:
        raise StoreError(
            f"{printable(folder)} holds what frictionstore did not write there "
            f"({listed(found, 3)}): move it out of the folder first"
        )


def remove(folder: Path, ours: Ours, first: str) -> None:
    """Remove what is ours in a folder, and the folder if that was all.

    The caller has proved that the folder may go. Its file `first` goes first, so that an
    interrupted removal leaves nothing that could be taken for a whole store; the mark goes last.
    """
    with _opened(folder) as top:
        with suppress(FileNotFoundError):
            os.unlink(first, dir_fd=top)
            fsync_descriptor(top)
        _prune(top, lambda key: key != TOKEN and ours(key))
        left = sorted(set(os.listdir(top)) - {TOKEN})
        if not left:
            _prune(top, lambda key: key == TOKEN)
    if left:
        logger.warning("%s is kept: it holds %s", printable(folder), listed(left, 3))
    else:
        os.rmdir(folder)
    fsync_path(folder.parent)


def prune(folder: Path, ours: Ours) -> None:
    """Remove the files in a folder that are ours, and those of our folders that this empties."""
    with _opened(folder) as top:
        _prune(top, ours)


def _prune(top: int, ours: Ours) -> None:
    for key, name, here in _walk(top):
        if not _is_ours(key, name, here, ours) or (key == TOKEN and not ours(key)):
            continue
        if stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
            with suppress(OSError):  # something else is in it
                os.rmdir(name, dir_fd=here)
        else:
            os.unlink(name, dir_fd=here)


def _walk(top: int) -> Iterator[tuple[str, str, int]]:
    """Path, name, and the folder's descriptor, the deepest first; no link is followed."""
    for root, folders, names, here in os.fwalk(".", topdown=False, dir_fd=top):
        prefix = "" if root == "." else root.removeprefix("./") + "/"
        for name in (*names, *folders):
            yield prefix + name, name, here


# ---- names -----------------------------------------------------------------------------------


def exchange(a: Path, b: Path) -> bool:
    """Swap the names of two folders in one step; False where the system cannot."""
    return not _rename(a, b, _EXCHANGE)


def rename_new(a: Path, b: Path) -> None:
    """Rename, and never replace what has the name."""
    result = _rename(a, b, _NO_REPLACE)
    if result in (errno.ENOSYS, errno.EINVAL):  # a system or file system without this
        if os.path.lexists(b):
            result = errno.EEXIST
        else:
            os.rename(a, b)
            result = 0
    if result:
        raise OSError(result, os.strerror(result), str(b))
    fsync_path(b.parent)


def _rename(a: Path, b: Path, flags: int) -> int:
    """The error number of Linux's renameat2, 0 for none."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return errno.ENOSYS
    failed = rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), flags)
    return ctypes.get_errno() if failed else 0
