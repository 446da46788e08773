"""Where a store is made and how it gets its name, and which files there are a store's.

An unfinished store is the folder ``<target>.partial``; it gets the target's name when it is whole.
A store that it replaces is marked as replaced before that, and removed after it, file by file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.fingerprint import differences, fingerprint, parse_json, read_json
from frictionstore.format.header import parse_manifest, read_header
from frictionstore.format.own_maps import own_maps
from frictionstore.io import owned
from frictionstore.io.base import SMALL_FILE_BYTES
from frictionstore.io.durable import fsync_path
from frictionstore.text import printable

PLAN_FILE = "plan.json"
JOURNAL = "journal"
KIND = f"{JOURNAL}/kind.json"  # of the devices of runs that share the work
TRANSFER_FILE = "transfer.json"  # the request of a store that is on its way here
REPLACED = "replaced"  # what the mark in such a folder says it is

_TOP = {
    "zarr.json",
    schema.MANIFEST,
    schema.PROVENANCE,
    PLAN_FILE,
    TRANSFER_FILE,
    f"{JOURNAL}/",
    KIND,
}
_RECORD = re.compile(rf"{JOURNAL}/unit-\d+\.(json|claim)")
_IN_ARRAY = re.compile(r"(zarr\.json|c/|c(/\d+)+/?)")
_UNFINISHED = re.compile(r"(.*/)?(?:\.([^/]+)\.[0-9a-f]+\.tmp|(\d+)\.(?:part|[0-9a-f]+\.partial))")
CARD_START = b"---\ntags:\n- frictionstore\n"


def partial_path(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def replaced_path(target: Path) -> Path:
    """Where a store waits while another takes its name, where two folders cannot be swapped."""
    return target.with_name(target.name + ".replaced")


def is_store(path: Path) -> bool:
    """Whether replacing `path` would replace a store of ours and nothing else."""
    try:
        attributes = read_json(path, "zarr.json")["attributes"]
        return isinstance(attributes[schema.ATTRIBUTES_KEY], dict)
    except (OSError, StoreError, ValueError, KeyError, TypeError):
        return False


def up_to_date(target: Path, request: Mapping[str, Any]) -> bool:
    """Whether `target` already is the complete store that `request` asks for.

    Reads metadata and file sizes only; imports neither zarr nor torch.

    Returns
    -------
    bool
        False where there is nothing at `target`.

    Raises
    ------
    StoreError
        `target` is something else, and the message says what.
    """
    if not target.exists() and not target.is_symlink():
        return False
    shown = printable(target)
    if not target.is_dir() or not (target / "zarr.json").exists():
        if target.is_dir() and not any(target.iterdir()):
            raise StoreError(
                f"{shown} is an empty folder, not a store: remove it or choose another target"
            )
        raise StoreError(f"{shown} exists and is not a store: choose another target")
    header = read_header(str(target))
    if header.fingerprint != fingerprint(dict(request)):
        found = differences(header.request, dict(request))
        raise StoreError(
            f"{shown} holds another store ({'; '.join(found[:3])}"
            f"{f'; and {len(found) - 3} more' if len(found) > 3 else ''}): "
            "choose another target, or replace it with",
            option="overwrite=True",
        )
    header.check_files()
    return True


def belongs(folder: Path) -> owned.Ours:
    """Which paths in a store, whole or not, are those of files and folders that we write."""
    listing = owned.read_plain(folder, schema.MANIFEST, SMALL_FILE_BYTES)
    try:
        listed = set() if listing is None else set(parse_manifest(listing, ""))
    except StoreError:
        listed = set()
    listed |= {f"{above}/" for key in listed for above in Path(key).parents}
    arrays = set(schema.ARRAYS) | _own_arrays(folder)
    start = owned.read_plain(folder, schema.CARD, len(CARD_START))
    top = _TOP | {schema.CARD} if start in (None, CARD_START) else _TOP

    def ours(key: str) -> bool:
        if key in top or key in listed or _RECORD.fullmatch(key):
            return True
        begun = _UNFINISHED.fullmatch(key)
        if begun:
            return ours((begun[1] or "") + (begun[2] or begun[3]))
        array, _, rest = key.partition("/")
        return array in arrays and (not rest or bool(_IN_ARRAY.fullmatch(rest)))

    return ours


def _own_arrays(folder: Path) -> set[str]:
    """Maps of somebody's own that a store, whole or not, or a transfer says it has."""
    found: set[str] = set()
    for name in (PLAN_FILE, TRANSFER_FILE):
        try:
            found |= set(own_maps(read_json(folder, name)["request"]))
        except (OSError, StoreError, RequestError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def take(target: Path, what: str) -> str | None:
    """Make the folder for a store that is to get `target`'s name, or take up an earlier one.

    Returns
    -------
    str or None
        What the folder was for, None where it is new.

    Raises
    ------
    StoreError
        The folder is not ours, or holds what is not.
    """
    partial = partial_path(target)
    found = owned.take(partial, target, what, known=_left_before_marks(partial))
    owned.refuse_strangers(partial, belongs(partial))
    return found


def _left_before_marks(partial: Path) -> bool:
    """Whether an earlier version left the folder: its plan or its note of a transfer says so."""
    for name, known in ((PLAN_FILE, {"request", "n_images"}), (TRANSFER_FILE, {"digest"})):
        try:
            found = parse_json(owned.read_plain(partial, name, SMALL_FILE_BYTES) or b"")
        except ValueError:
            continue
        if isinstance(found, dict) and known <= found.keys():
            return True
    return False


def discard(folder: Path) -> None:
    """Remove a folder that was proved to be ours, but for what somebody else put into it."""
    owned.remove(folder, belongs(folder), schema.MANIFEST)


def discard_partial(target: Path) -> None:
    """Remove the unfinished folder of `target`, where it is one of ours."""
    if owned.made_for(partial_path(target), target) is not None:
        discard(partial_path(target))


def check_replaceable(target: Path) -> None:
    """Refuse to replace a store in which there is more than a store.

    Raises
    ------
    StoreError
        Names what would be lost.
    """
    if os.path.lexists(target):
        owned.refuse_strangers(target, belongs(target))


def publish(target: Path) -> None:
    """Give the finished folder its name; a store that has the name is removed after that."""
    partial = partial_path(target)
    if os.path.lexists(target):
        check_replaceable(target)
        owned.mark(target, target, REPLACED)
        old = partial
        if not owned.exchange(partial, target):  # readers find a store under the name all the time
            old = replaced_path(target)
            if os.path.lexists(old):
                owned.unmark(target, target)
                raise owned.not_ours(old, target)
            owned.rename_new(target, old)
            owned.rename_new(partial, target)
        fsync_path(target.parent)
        discard(old)
    else:
        owned.rename_new(partial, target)
    owned.unmark(target, target)


def restore_replaced(target: Path) -> None:
    """Undo or end a replacement that was interrupted."""
    old, partial = replaced_path(target), partial_path(target)
    if owned.made_for(old, target) == REPLACED:
        if (old / schema.MANIFEST).exists() and not os.path.lexists(target):
            owned.rename_new(old, target)
        else:
            discard(old)
    if owned.made_for(partial, target) == REPLACED:
        discard(partial)
