"""One unit of an unfinished store: its shards, its record, and who has claimed it.

Nothing here needs a lock: a file is written under a private name and renamed into place, a record
or a claim is made only where there is none. Several processes, on several machines that see the
folder, may therefore write units of one store; a unit that two of them write has the same bytes, or
the second says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from frictionstore.errors import StoreError
from frictionstore.format import schema
from frictionstore.format.fingerprint import read_json
from frictionstore.format.plan import StorePlan, array_document, document_bytes
from frictionstore.format.shards import checksums
from frictionstore.io.durable import fsync_path, write_atomic
from frictionstore.io.once import place_new
from frictionstore.io.owned import drop
from frictionstore.io.regular import open_regular
from frictionstore.store.place import JOURNAL
from frictionstore.text import printable


def record_name(number: int) -> str:
    return f"{JOURNAL}/unit-{number:06d}.json"


def claim_name(number: int) -> str:
    return f"{JOURNAL}/unit-{number:06d}.claim"


# ---- shards and records ----------------------------------------------------------------------


def write_shards(
    partial: Path,
    plan: StorePlan,
    number: int,
    arrays: Mapping[str, np.ndarray],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the shards of one unit; what the journal is to say of them.

    Parameters
    ----------
    partial : Path
        The unfinished store.
    plan : StorePlan
    number : int
        Position in ``plan.units``.
    arrays : mapping of array name to ndarray
        Every array of the plan, each with the unit's rows.
    run : mapping
        Provenance of this unit: engine, device, versions.

    Raises
    ------
    StoreError
        The unit is recorded already, with other bytes.
    """
    rows = plan.units[number]
    plans = plan.arrays
    if set(arrays) != set(plans):
        raise ValueError(f"unit {number} has arrays {sorted(arrays)}, expected {sorted(plans)}")
    files: dict[str, dict[str, Any]] = {}
    entry = {"unit": number, "rows": [rows.start, rows.stop], "files": files, "run": dict(run)}
    for name, array in plans.items():
        key = array.shard_key(number)
        data = _encoded(array, rows, key, np.asarray(arrays[name]))
        files[key] = _described(
            _reader(data), len(data), hashlib.sha256(data).hexdigest(), array, number
        )
        known = read_record(partial, number)
        if known is not None:
            _check_same(known, entry)
            continue  # what is recorded stays as it is
        for folder in (*reversed(Path(key).parents[:-1]),):
            (partial / folder).mkdir(exist_ok=True)  # a folder that was renamed is not made again
        write_atomic(partial / key, data)
        flush_folders(partial, key)
    return entry


def _encoded(plan: schema.ArrayPlan, rows: range, key: str, values: np.ndarray) -> bytes:
    """A shard's bytes, as zarr writes them."""
    import zarr
    from zarr.storage import MemoryStore, StorePath

    expected = (len(rows), *plan.shape[1:])
    if values.shape != expected:
        raise ValueError(f"{plan.spec.name} has shape {values.shape}, expected {expected}")
    made: dict[str, Any] = {}
    # told to this array and not to zarr as a whole, which other threads use
    document: Any = array_document(plan)
    array: Any = zarr.Array(
        zarr.AsyncArray(
            metadata=document,
            store_path=StorePath(MemoryStore(made)),
            config={"write_empty_chunks": True},
        )
    )
    array[rows.start : rows.stop] = values
    return bytes(made[key.removeprefix(plan.spec.name + "/")].to_bytes())


def _reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda start, count: data[start : start + count]


def flush_folders(partial: Path, key: str) -> None:
    """The folders that a file is in, to disk."""
    for folder in (partial / key).parents:
        fsync_path(folder)
        if folder == partial:
            break


def shard_record(folder: Path, plan: schema.ArrayPlan, unit: int) -> dict[str, Any]:
    """What the journal keeps of one shard file."""
    with os.fdopen(open_regular(folder, plan.shard_key(unit)), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return _described(
            lambda start, count: os.pread(file.fileno(), count, start), size, digest, plan, unit
        )


def _described(
    read: Callable[[int, int], bytes], size: int, digest: str, plan: schema.ArrayPlan, unit: int
) -> dict[str, Any]:
    row = checksums(read, size, plan.shard_chunks, plan.unit_chunks(unit))
    return {"bytes": size, "sha256": digest, "crc32c": row}


def read_record(partial: Path, number: int) -> dict[str, Any] | None:
    """The record of a unit; None where there is none that can be read."""
    try:
        entry = read_json(partial, record_name(number))
    except (OSError, StoreError, ValueError):
        return None
    return entry if isinstance(entry.get("files"), dict) else None


def enter_record(partial: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Record a unit whose shards are in place; the record that holds.

    Raises
    ------
    StoreError
        It is recorded already, with other bytes.
    """
    path = partial / record_name(entry["unit"])
    if not place_new(path, document_bytes(entry)):
        known = read_record(partial, entry["unit"])
        if known is not None:
            _check_same(known, entry)
            return known
        write_atomic(path, document_bytes(entry))
    return entry


def _check_same(known: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    for key, said in mine["files"].items():
        if known["files"].get(key) != said:
            first, last = mine["rows"][0], mine["rows"][1] - 1
            raise StoreError(
                f"{printable(key.split('/')[0])} of images {first}..{last} was measured twice with "
                f"different bytes, on {_device(known)} and on {_device(mine)}: let devices of one "
                "kind write a store"
            )


def _device(entry: Mapping[str, Any]) -> str:
    run = entry.get("run") or {}
    device, name = run.get("device", "a device"), run.get("device_name", "not named")
    return f"{printable(device, 20)} ({printable(name, 80)})"


# ---- claims ----------------------------------------------------------------------------------


class Claims:
    """Units that this process has claimed in an unfinished store.

    A claim is a file that says who works on a unit and since when; its time is renewed with each
    unit that its holder records. One that is older than `timeout`, or whose process on this host
    has ended, is taken over. Two that take over one claim at once both do the unit, with the same
    bytes.

    Parameters
    ----------
    partial : Path
    timeout : float
        Seconds.
    """

    def __init__(self, partial: Path, timeout: float) -> None:
        self.partial = partial
        self.timeout = timeout
        self.held: set[int] = set()

    def take(self, number: int) -> str | None:
        """Claim a unit; who has it, where it is another's."""
        path = self.partial / claim_name(number)
        holder = _holder(path)
        if holder is not None and not self._is_over(path, holder):
            return _named(holder)
        if holder is not None:
            drop(self.partial, claim_name(number))
        if not place_new(path, _claim_text()):
            return _named(_holder(path) or {})
        self.held.add(number)
        return None

    def _is_over(self, path: Path, holder: Mapping[str, Any]) -> bool:
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            return True
        if age > self.timeout:
            return True
        return holder.get("host") == socket.gethostname() and not _is_alive(holder.get("pid"))

    def renew(self) -> None:
        for number in self.held:
            with suppress(OSError):
                os.utime(self.partial / claim_name(number))

    def release(self, numbers: Iterable[int] | None = None) -> None:
        """Give claims back, all of them by default."""
        for number in [*(self.held if numbers is None else numbers)]:
            self.held.discard(number)
            path = self.partial / claim_name(number)
            holder = _holder(path) or {}
            if (holder.get("host"), holder.get("pid")) == (socket.gethostname(), os.getpid()):
                drop(self.partial, claim_name(number))


def any_claim(partial: Path) -> bool:
    return any((partial / JOURNAL).glob("unit-*.claim"))


def _claim_text() -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}).encode()


def _holder(path: Path) -> dict[str, Any] | None:
    """Who holds a claim; None where there is none."""
    try:
        entry = json.loads(path.read_bytes()[:4096])
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        entry = {}
    return entry if isinstance(entry, dict) else {}


def _named(holder: Mapping[str, Any]) -> str:
    pid, host, since = (holder.get(key, "?") for key in ("pid", "host", "since"))
    return f"process {printable(pid, 20)} on {printable(host)} since {printable(since)}"


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, TypeError, ValueError, OverflowError):
        return True  # another user's, or nothing that can be asked
    return True
