"""Files that survive a crash: atomic replacement, flushing to disk, one writer at a time.

Nothing here knows what a store is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from frictionstore.errors import BusyError, StoreError
from frictionstore.text import printable

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # of Linux's renameat2


def fsync_path(path: Path) -> None:
    """Flush a file, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either what it held before or all of `data`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def link_or_copy(source: Path, path: Path) -> None:
    """`path` with the bytes of the plain file `source`: the same file where that can be had."""
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, path)
        fsync_path(path)
    fsync_path(path.parent)


def exchange(a: Path, b: Path) -> bool:
    """Swap the names of two folders in one step; False where the system cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    result = swap(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return int(result) == 0


@contextmanager
def explain_os_errors(what: str, kept: str) -> Iterator[None]:
    """Turn a full or read-only disk into a `StoreError`.

    Parameters
    ----------
    what : str
        What was being written, for the message.
    kept : str
        What is still there and what to do next, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "no space left on the device"
        elif error.errno == errno.EFBIG:
            reason = "the file-size limit was reached"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "permission denied"
        else:
            reason = error.strerror or type(error).__name__
        raise StoreError(f"{reason} while writing {printable(what)}: {kept}") from error


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold the right to write `target`; the lock file ``<target>.lock`` says who does.

    The lock is the operating system's (`flock`), so it ends with its process, however that ends.

    Raises
    ------
    BusyError
        Another process holds it.
    """
    path = target.with_name(target.name + ".lock")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise BusyError(
                f"{printable(target)} is being written by {holder}: wait until it has ended, "
                "or choose another target"
            ) from None
        try:
            same = os.path.samestat(os.fstat(descriptor), os.stat(path))
        except FileNotFoundError:
            same = False
        if same:
            break
        os.close(descriptor)  # the former holder removed the file between our open and our lock
    try:
        entry = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(entry).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def claimed(target: Path) -> Iterator[None]:
    """`exclusive`, in a folder that is made where it is missing.

    Raises
    ------
    StoreError
        The folder cannot be written, or its disk is full.
    BusyError
        Another process holds the target.
    """
    with ExitStack() as stack:
        with explain_os_errors(str(target), "choose a folder that can be written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(target))
        yield


def _read_holder(descriptor: int) -> str:
    try:
        entry = json.loads(os.pread(descriptor, 4096, 0))
        return (
            f"process {int(entry['pid'])} on {printable(entry['host'])} "
            f"since {printable(entry['since'])}"
        )
    except (ValueError, KeyError, TypeError):
        return "another process"
