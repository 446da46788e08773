"""What a user gives: paths, files that are read once and whole, and whether torch is there."""

from __future__ import annotations

import errno
import os
import stat
from importlib.util import find_spec
from pathlib import Path

from frictionstore.errors import RequestError
from frictionstore.installed import install_command
from frictionstore.text import byte_count, printable


def expanded(text: str) -> Path:
    """`text` as a path, with ``~`` and ``~user`` replaced.

    Raises
    ------
    RequestError
        There is no such user, or it is no path at all.
    """
    if "\0" in text:
        raise RequestError(f"{printable(text)} is not a path: it holds a NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = printable(text.partition("/")[0])
        raise RequestError(
            f"{printable(text)}: there is no user {user}, or no home folder is known: write the "
            f"path out, or ./{user} for a file of that name"
        ) from None


def read_whole(path: str | os.PathLike[str], largest: int) -> bytes:
    """A regular file's bytes by one descriptor: a pipe or a device is not waited for.

    Raises
    ------
    OSError
        It cannot be read, is not a regular file, or has more than `largest` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        if facts.st_size <= largest:
            data = file.read(largest + 1)
            if len(data) <= largest:
                return data
        said = f"it has more than {byte_count(largest)}"
        raise OSError(errno.EFBIG, said, os.fspath(path))


def require_torch() -> None:
    if find_spec("torch") is None:
        raise RequestError(f"extraction needs torch: {install_command('extract')}")
