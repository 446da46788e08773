"""Folders that are made beside a place and get it when they are whole, with what is kept there.

What gives way is removed only as far as the caller has seen and named it: what somebody put there
since stays, under a name beside the place. No link is followed.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from frictionstore.errors import BusyError, StoreError
from frictionstore.io.durable import fsync_path
from frictionstore.io.locate import refuse_inside_store
from frictionstore.io.owned import exchange, exclusive, read_plain, rename_new
from frictionstore.text import printable

logger = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds to wait for another that writes the same folder

Seen = dict[str, tuple[int, ...]]
"""What was seen under each path of a folder; another file under the name differs."""


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` (beside what it leads to), which is gone afterwards.

    Others that want to write `folder` wait as long as this lasts; it takes seconds.

    Raises
    ------
    StoreError
        `folder` lies in a store.
    BusyError
        Another process has written it for longer than anybody waits.
    """
    folder = folder.resolve()
    if not folder.name:
        raise StoreError(f"{printable(folder)} is the root of all folders: name one in it")
    refuse_inside_store(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    with _turn(folder.with_name(f".{folder.name}")):
        new.mkdir()
        made = os.lstat(new)
        try:
            yield new
        finally:
            with suppress(FileNotFoundError):  # it was given a name
                if os.path.samestat(made, os.lstat(new)):
                    shutil.rmtree(new, ignore_errors=True)


@contextmanager
def _turn(name: Path) -> Iterator[None]:
    end = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive(name))
                break
            except BusyError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.05)
        yield


def check_page(path: Path, mark: bytes) -> None:
    """Refuse to write a page where something else is, or into a store.

    Parameters
    ----------
    path : Path
    mark : bytes
        What every page of this kind has in its first 4,096 bytes.

    Raises
    ------
    StoreError
    """
    refuse_inside_store(path)
    if os.path.lexists(path) and mark not in (read_plain(path.parent, path.name, 4096) or b""):
        raise StoreError(
            f"{printable(path)} is not such a page of frictionstore: choose another name, or "
            "remove it"
        )


def seen(folder: Path, names: Iterable[str]) -> Seen:
    """What lies under some names of a folder now, with all that is inside folders among them."""
    found: Seen = {}
    for name in names:
        with suppress(FileNotFoundError):
            facts = os.lstat(folder / name)
            found[name] = _facts(facts)
            if stat.S_ISDIR(facts.st_mode):
                inside = [f"{name}/{inner}" for inner in os.listdir(folder / name)]
                found |= seen(folder, inside)
    return found


def _facts(facts: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISDIR(facts.st_mode):
        return (facts.st_mode, facts.st_ino)
    return (facts.st_mode, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def copied(source: Path, target: Path) -> None:
    """Copy a file, a link or a folder as it is, under a name that is free."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def put_instead(new: Path, place: Path, known: Seen) -> None:
    """Give a whole folder its place; of one that is there, remove what is `known`."""
    place = place.resolve()
    if not os.path.lexists(place):
        rename_new(new, place)
        return
    old = new
    if not exchange(new, place):
        old = new.with_name(f"{new.name}.old")
        rename_new(place, old)
        try:
            rename_new(new, place)
        except BaseException:
            rename_new(old, place)
            raise
    fsync_path(place.parent)
    remove_seen(old, known)
    try:
        os.rmdir(old)
    except OSError:
        kept = place.with_name(f"{place.name}.before-{secrets.token_hex(4)}")
        rename_new(old, kept)
        logger.warning(
            "what was put into %s meanwhile is kept in %s", *map(printable, (place, kept))
        )


def remove_seen(folder: Path, known: Seen) -> None:
    """Remove from a folder what is as it was seen, and folders that this empties."""
    for root, folders, names, here in os.fwalk(folder, topdown=False):
        for name in (*names, *folders):
            key = os.path.relpath(os.path.join(root, name), folder)
            facts = os.stat(name, dir_fd=here, follow_symlinks=False)
            if known.get(key) != _facts(facts):
                continue
            if stat.S_ISDIR(facts.st_mode):
                with suppress(OSError):  # something else is in it
                    os.rmdir(name, dir_fd=here)
            else:
                os.unlink(name, dir_fd=here)


def take_away(folder: Path, known: Seen) -> None:
    """Remove what was seen of a folder, and the folder if nothing else is in it."""
    remove_seen(folder, known)
    with suppress(OSError):
        os.rmdir(folder)
