"""Writing a store: plan it, write its units in any order, finalise.

The work goes on in ``<target>.partial`` beside the target. A unit (the rows of one shard) is
written, flushed and then recorded in the journal; a run that was interrupted skips recorded
units. When none is missing, metadata and manifest are written and the folder gets the target's
name, so whatever has that name is complete. The layout of the files is in `format/schema.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frictionstore.errors import StoreError
from frictionstore.format import schema
from frictionstore.format.fingerprint import differences, read_json
from frictionstore.format.header import check_readable
from frictionstore.format.plan import (
    Shard,
    StorePlan,
    array_document,
    document_bytes,
    group_document,
    manifest_bytes,
)
from frictionstore.io.base import TOKEN
from frictionstore.io.durable import explain_os_errors, fsync_path, link_or_copy, write_atomic
from frictionstore.io.local import LocalLocation
from frictionstore.io.once import place_new
from frictionstore.io.owned import claimed, drop, prune, unmark
from frictionstore.io.regular import sha256_of
from frictionstore.store.place import (
    JOURNAL,
    PLAN_FILE,
    belongs,
    check_replaceable,
    discard,
    discard_partial,
    is_store,
    partial_path,
    publish,
    restore_replaced,
    take,
    up_to_date,
)
from frictionstore.store.unit import (
    any_claim,
    enter_record,
    flush_folders,
    record_name,
    write_shards,
)
from frictionstore.text import listed, printable

UNFINISHED = "unfinished store"  # what the mark in a folder of ours says it is
TRIES = 5  # where others prepare or finalise the same store at the same time
PAUSE = 0.3  # seconds between them
KEPT = "what is complete is kept, run the same command again"


@dataclass(frozen=True)
class Keep:
    """What a repair starts from.

    Attributes
    ----------
    sound : bool
        Nothing is wrong with the store: there is nothing to repair.
    units : dict of int to dict
        Journal entries of the units to keep.
    """

    sound: bool
    units: dict[int, dict[str, Any]]


class StoreWriter:
    """Write one store, from `StorePlan` to the finished folder.

    Use as a context manager: it holds the target's lock. Each unit is written by one caller;
    different units may be written by different threads.

    Parameters
    ----------
    target : Path
        The finished store; its folder is made where it is missing.
    plan : StorePlan
    overwrite : bool
        Replace a different store, or the unfinished remains of one, at `target`. The old store
        stays in place until the new one is complete.
    repair : callable, optional
        Says what to keep of a store at `target` (`check.repair.what_to_keep`): where it is this
        very store but damaged, only the other units are written again. The damaged store stays in
        place until the new one is complete.

    Raises
    ------
    BusyError
        Another process is writing `target`.
    StoreError
        `target` is something else, or its unfinished remains are of another request.
    """

    def __init__(
        self,
        target: Path,
        plan: StorePlan,
        *,
        overwrite: bool = False,
        repair: Callable[[Path, StorePlan], Keep] | None = None,
    ) -> None:
        check_readable(plan, printable(target))
        self.target = target
        self.plan = plan
        self.overwrite = overwrite
        self.repair = repair
        self.partial = partial_path(target)
        self.shared = False  # other runs write units of this store too
        self.written_elsewhere = False  # other machines write its shards
        self.recorded: dict[int, dict[str, Any]] = {}
        self.already_complete = False
        self._stack: Any = None

    # ---- entering: lock, then fresh start or resume -----------------------------------------

    def __enter__(self) -> StoreWriter:
        from contextlib import ExitStack

        with ExitStack() as stack:
            self.target = target = stack.enter_context(claimed(self.target))
            self.partial = partial_path(target)
            with explain_os_errors(str(target), KEPT):
                restore_replaced(target)
            keep: dict[int, dict[str, Any]] = {}
            if self.repair is not None and target.is_dir():
                found = self.repair(target, self.plan)
                self.already_complete, keep = found.sound, found.units
            else:
                try:
                    self.already_complete = up_to_date(target, self.plan.request)
                except StoreError:
                    if not self.overwrite or not is_store(target):
                        raise
            with explain_os_errors(str(self.partial), KEPT):
                if self.already_complete:
                    discard_partial(target)
                    unmark(target, target)
                else:
                    check_replaceable(target)
                    self._prepare()
                    self._link_kept(keep)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._nothing_recorded():
                discard_partial(self.target)  # one that ended before its first unit leaves nothing
        finally:
            self._stack.close()

    def _insist(self, step: Callable[[], None]) -> None:
        """Again where another run has taken a file away meanwhile, or has named the store."""
        for left in reversed(range(TRIES)):
            try:
                with explain_os_errors(str(self.target), KEPT):
                    step()
                return
            except StoreError:
                if self.taken_over():
                    return
                if not left:
                    raise
            time.sleep(PAUSE)

    def taken_over(self) -> bool:
        """Whether another run has finished the store while this one was at work on it."""
        return (self.shared or not self.partial.exists()) and self.is_done()

    def is_done(self) -> bool:
        """Whether the target is the store that is asked for."""
        try:
            self.already_complete = self.already_complete or (
                up_to_date(self.target, self.plan.request)
            )
        except StoreError:
            return False
        return self.already_complete

    def _prepare(self) -> None:
        found = take(self.target, UNFINISHED)
        if found is not None and not self._resumable(found):
            discard(self.partial)
            take(self.target, UNFINISHED)
        self._fill()

    def _fill(self) -> None:
        """Plan and metadata where they are missing: others may be at work with what is there."""
        if (self.partial / schema.MANIFEST).exists():
            return  # everything but the rename was done
        (self.partial / JOURNAL).mkdir(exist_ok=True)
        place_new(self.partial / PLAN_FILE, document_bytes(self.plan.as_json()))
        place_new(
            self.partial / "zarr.json", document_bytes(group_document(self.plan, shards=None))
        )
        for name, array in self.plan.arrays.items():
            (self.partial / name).mkdir(exist_ok=True)
            document = document_bytes(array_document(array))
            if not place_new(self.partial / name / "zarr.json", document):
                write_atomic(self.partial / name / "zarr.json", document)
        self._read_journal()

    def _resumable(self, found: str) -> bool:
        """Whether the remains are of this plan; False where they hold nothing worth keeping."""
        if found != UNFINISHED:
            if self.overwrite:
                return False
            raise StoreError(
                f"{printable(self.partial)} is an unfinished {printable(found, 20)}: finish that, "
                "remove the folder, or run with",
                option="overwrite=True",
            )
        try:
            if (self.partial / schema.MANIFEST).exists():
                there = read_json(self.partial, "zarr.json")["attributes"]
                there_request = there[schema.ATTRIBUTES_KEY]["request"]
                same = there_request == self.plan.request
            else:
                there = read_json(self.partial, PLAN_FILE)
                there_request = there["request"]
                same = there == json.loads(document_bytes(self.plan.as_json()))
        except (OSError, StoreError, ValueError, KeyError, TypeError):
            if self.overwrite or self._nothing_recorded():
                return False
            raise StoreError(
                f"{printable(self.partial)} is not what an interrupted run leaves: "
                "remove it, or run with",
                option="overwrite=True",
            ) from None
        if same:
            return True
        if self.overwrite or self._nothing_recorded():
            return False
        changed = differences(there_request, self.plan.request)
        raise StoreError(
            f"{printable(self.partial)} is the unfinished rest of another run "
            f"({'; '.join(changed[:3]) if changed else 'its plan differs'}): finish that, remove "
            "the folder, or run with",
            option="overwrite=True",
        )

    def _nothing_recorded(self) -> bool:
        """An interruption before the first recorded unit leaves only what we would write again."""
        if (self.partial / schema.MANIFEST).exists() or not self.partial.is_dir():
            return False
        expected = {TOKEN, PLAN_FILE, JOURNAL, "zarr.json", *self.plan.arrays, *schema.ARRAYS}
        strange = [
            entry.name
            for entry in self.partial.iterdir()
            if entry.name not in expected and not entry.name.endswith(".tmp")
        ]
        journal = self.partial / JOURNAL
        recorded = journal.is_dir() and any(journal.glob("unit-*.json"))
        return not strange and not recorded and not any_claim(self.partial)

    def _read_journal(self) -> None:
        """Trust a record only while its files are what it says."""
        self.recorded = {}
        place = LocalLocation(self.partial)
        for number, rows in enumerate(self.plan.units):
            record = record_name(number)
            try:
                entry = read_json(self.partial, record)
                good = entry["rows"] == [rows.start, rows.stop] and set(entry["files"]) == {
                    array.shard_key(number) for array in self.plan.arrays.values()
                }
                for key, said in entry["files"].items() if good else ():
                    Shard(said["bytes"], said["crc32c"])
                    good = good and place.size(key) == said["bytes"]
                    good = good and sha256_of(self.partial, key) == said["sha256"]
            except FileNotFoundError:
                continue
            except (OSError, StoreError, ValueError, KeyError, TypeError):
                good = False
            if good:
                self.recorded[number] = entry
            else:
                drop(self.partial, record)

    def _link_kept(self, keep: Mapping[int, Mapping[str, Any]]) -> None:
        """Record units of the damaged store as ours; their files are shared, not moved."""
        for number in self.pending:
            if number not in keep:
                continue
            entry = dict(keep[number])
            for key in entry["files"]:
                path = self.partial / key
                path.parent.mkdir(parents=True, exist_ok=True)
                drop(self.partial, key)
                link_or_copy(self.target / key, path)
                fsync_path(path)
                flush_folders(self.partial, key)
            write_atomic(self.partial / record_name(number), document_bytes(entry))
            self.recorded[number] = entry

    # ---- units ------------------------------------------------------------------------------

    @property
    def pending(self) -> list[int]:
        """Numbers of the units that are not recorded yet."""
        return self._missing()

    def _missing(self) -> list[int]:
        if self.already_complete or (self.partial / schema.MANIFEST).exists():
            return []
        return [n for n in range(len(self.plan.units)) if n not in self.recorded]

    def write_unit(
        self, number: int, arrays: Mapping[str, np.ndarray], run: Mapping[str, Any]
    ) -> None:
        """Write and record one unit.

        Parameters
        ----------
        number : int
            Position in ``plan.units``.
        arrays : mapping of array name to ndarray
            Every array of the plan, each with the unit's rows.
        run : mapping
            Provenance of this unit: engine, device, versions.
        """
        with explain_os_errors(f"unit {number} of {self.target}", KEPT):
            self.record(write_shards(self.partial, self.plan, number, arrays, run))

    def record(self, entry: dict[str, Any]) -> None:
        """Record a unit whose shards are in place, as `unit.write_shards` has described it."""
        number = entry["unit"]
        with explain_os_errors(f"unit {number} of {self.target}", KEPT):
            self.recorded[number] = enter_record(self.partial, entry)

    # ---- finalise ---------------------------------------------------------------------------

    def finalise(self, provenance: Mapping[str, Any]) -> None:
        """Write metadata and manifest, and give the folder its name.

        Raises
        ------
        StoreError
            Units are missing; the message lists their images.
        """
        if self.already_complete:
            return
        beside_others = self.shared or any_claim(self.partial) or not self.partial.exists()
        if beside_others or self.written_elsewhere:
            self._insist(lambda: self._finalise(provenance, shared=True))
        else:
            self._finalise(provenance, shared=False)

    def _finalise(self, provenance: Mapping[str, Any], *, shared: bool) -> None:
        if shared and not (self.partial / schema.MANIFEST).exists():
            self._read_journal()  # others have written as well: what they recorded is what is there
        gaps = self._missing()
        if gaps:
            images = [f"{self.plan.units[n].start}..{self.plan.units[n].stop - 1}" for n in gaps]
            raise StoreError(
                f"{printable(self.target)} lacks images {listed(images)}: extract them first"
            )
        with explain_os_errors(str(self.target), KEPT):
            if not (self.partial / schema.MANIFEST).exists():
                self._complete(provenance)
            ours = belongs(self.partial)
            prune(self.partial, lambda key: key.startswith((JOURNAL, PLAN_FILE)) and ours(key))
            fsync_path(self.partial)
            publish(self.target)
            if shared:  # a run that was late had begun a file
                prune(self.target, lambda key: key.endswith(".tmp") and ours(key))

    def _complete(self, provenance: Mapping[str, Any]) -> None:
        shards, digests = {}, {}
        for entry in self.recorded.values():
            for key, said in entry["files"].items():
                shards[key] = Shard(said["bytes"], said["crc32c"])
                digests[key] = said["sha256"]
        metadata = {"zarr.json", *(f"{name}/zarr.json" for name in self.plan.arrays)}
        kept = {*digests, *metadata, PLAN_FILE, TOKEN}
        ours = belongs(self.partial)
        # temporary files and what else an interruption left behind, nothing we recorded
        prune(
            self.partial,
            lambda key: key not in kept and not key.startswith(f"{JOURNAL}/") and ours(key),
        )
        write_atomic(self.partial / "zarr.json", document_bytes(group_document(self.plan, shards)))
        for key in sorted(metadata):
            digests[key] = str(sha256_of(self.partial, key))
        runs: list[dict[str, Any]] = []
        of_unit = []
        for number in sorted(self.recorded):
            run = self.recorded[number]["run"]
            if run and run not in runs:
                runs.append(run)
            of_unit.append(runs.index(run) if run else None)
        said = {**provenance, "runs": runs}
        if len(runs) > 1:
            said["run_of_unit"] = of_unit
        write_atomic(self.partial / schema.PROVENANCE, document_bytes(said))
        write_atomic(self.partial / schema.MANIFEST, manifest_bytes(digests))
