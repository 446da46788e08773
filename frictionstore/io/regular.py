"""Open a file of a folder only where it is a plain file in that folder.

A folder that came from a stranger can hold a link to a file of ours, or a pipe that never ends.
No link is followed below the folder (which itself may be one), nothing waits for another end, and
what is read is decided by looking at the open file and not at its name.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from frictionstore.errors import StoreError
from frictionstore.text import printable

_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_regular(folder: str | os.PathLike[str], key: str) -> int:
    """A descriptor for reading the plain file `key` (parts separated by ``/``) of `folder`.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        There is no such file.
    OSError
        It cannot be opened.
    StoreError
        It is a link or lies behind one, or is no plain file.
    """
    with inside(folder, key) as (here, name):
        descriptor = _opened(here, name, _FILE, folder, key)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"{_shown(folder, key)} is not a plain file: remove it or get it again")
    return descriptor


@contextmanager
def inside(folder: str | os.PathLike[str], key: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder below `folder` that `key` lies in, and its name there.

    Raises as `open_regular`.
    """
    *folders, name = key.split("/")
    if ".." in folders or name in ("", ".", ".."):
        raise StoreError(f"{printable(key)} is no name of a file in {printable(folder)}")
    here = os.open(folder, _FOLDER)
    try:
        for part in folders:
            inner = _opened(here, part, _FOLDER | os.O_NOFOLLOW, folder, key)
            os.close(here)
            here = inner
        yield here, name
    finally:
        os.close(here)


def sha256_of(folder: str | os.PathLike[str], key: str) -> str | None:
    """Hex SHA-256 of the plain file `key` of `folder`; None where there is none to be read."""
    try:
        descriptor = open_regular(folder, key)
    except (OSError, StoreError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(here: int, part: str, flags: int, folder: str | os.PathLike[str], key: str) -> int:
    try:
        return os.open(part, flags, dir_fd=here)
    except OSError:
        try:  # systems do not agree on the error that a link gives
            link = stat.S_ISLNK(os.stat(part, dir_fd=here, follow_symlinks=False).st_mode)
        except OSError:
            link = False
        if not link:
            raise
    raise StoreError(
        f"{_shown(folder, key)} is or lies behind a symbolic link, and what a store holds is plain "
        "files: copy it with its links resolved (cp -rL) and use the copy"
    )


def _shown(folder: str | os.PathLike[str], key: str) -> str:
    return printable(os.path.join(folder, key))
