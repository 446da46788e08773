"""Files that survive a crash: atomic replacement, flushing to disk.

Nothing here knows what a store is, nor what may be replaced (`owned.py`).
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from frictionstore.errors import StoreError
from frictionstore.text import printable


def fsync_path(path: Path) -> None:
    """Flush a file, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fsync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def fsync_descriptor(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some file systems flush a folder's entries by themselves, and say that one cannot ask
        unasked = error.errno in (errno.EINVAL, errno.ENOTSUP)
        if not (unasked and stat.S_ISDIR(os.fstat(descriptor).st_mode)):
            raise


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is made here, on disk when the block ends and gone if it raises."""
    file = open(path, "xb")  # noqa: SIM115 - what is not ours is not removed below
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, which gets its name when the block ends, and is gone if it raises."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with new_file(temporary) as file:
        yield file
    try:
        replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def continued(path: Path) -> Iterator[BinaryIO]:
    """A file to read and to append to, made where it is missing; on disk when the block ends."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "r+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, target: Path) -> None:
    """Rename a whole file, in the place of what has the name."""
    os.replace(path, target)
    fsync_path(target.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either what it held before or all of `data`."""
    with replacing(path) as file:
        file.write(data)


def link_or_copy(source: Path, path: Path) -> None:
    """`path` with the bytes of the plain file `source`: the same file where that can be had."""
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, path, follow_symlinks=False)
        fsync_path(path)
    fsync_path(path.parent)


def point_at(path: Path, target: Path) -> None:
    """`path` as a relative link to `target`, or a copy of it where there are no links.

    What has the name is replaced; as it is by another process that does so at the same time.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        os.symlink(os.path.relpath(target, path.parent), temporary)
    except OSError:  # a file system without links
        shutil.copyfile(target, temporary)
    os.replace(temporary, path)


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
