"""One of several runs that write one store, each a share of its units, at once or in any order.

No lock is held, since locks do not reach from one machine to another everywhere: units are claimed
(`unit.Claims`), and the run that finds the last unit recorded finalises.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from frictionstore.errors import DeviceError, RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.fingerprint import read_json
from frictionstore.format.plan import StorePlan, document_bytes
from frictionstore.io.once import place_new
from frictionstore.io.owned import claimed
from frictionstore.store.place import (
    KIND,
    PLAN_FILE,
    discard_partial,
    partial_path,
    take,
    up_to_date,
)
from frictionstore.store.unit import Claims, record_name
from frictionstore.store.writer import UNFINISHED, StoreWriter
from frictionstore.text import printable

CLAIM_TIMEOUT = 3600.0  # seconds; longer than a unit takes


def parse_part(text: str) -> tuple[int, int]:
    """I and N of ``I/N``.

    Raises
    ------
    RequestError
        It is not of this form, or I is not in 1..N.
    """
    number, slash, count = text.partition("/")
    good = slash and number.isascii() and number.isdigit() and count.isascii() and count.isdigit()
    if not good or not 1 <= int(number) <= int(count):
        raise RequestError(
            f"--part {printable(text)} is not I/N with I from 1 to N: 2/8 is the second of eight"
        )
    return int(number), int(count)


class PartWriter(StoreWriter):
    """Write some units of a store, as `StoreWriter` writes all.

    Parameters
    ----------
    target : Path
    plan : StorePlan
    part : (int, int)
        I and N: units I-1, I-1+N, I-1+2N, ...
    claim_timeout : float
        Seconds after which the claim of a run that records nothing is taken over.
    """

    def __init__(
        self,
        target: Path,
        plan: StorePlan,
        part: tuple[int, int],
        claim_timeout: float = CLAIM_TIMEOUT,
    ) -> None:
        super().__init__(target, plan)
        self.shared = True
        self.mine = range(part[0] - 1, len(plan.units), part[1])
        self.claim_timeout = claim_timeout
        self.claims: Claims | None = None
        self.held_by_others: dict[int, str] = {}

    def __enter__(self) -> PartWriter:
        with ExitStack() as stack:
            self.target = stack.enter_context(claimed(self.target, alone=False))
            self.partial = partial_path(self.target)
            self._insist(self._join)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self.claims is not None:
                self.claims.release()
        finally:
            self._stack.close()

    def _join(self) -> None:
        """Enter beside others: nothing that they may need is removed or replaced."""
        self.already_complete = up_to_date(self.target, self.plan.request)
        if self.already_complete:
            return
        found = take(self.target, UNFINISHED)
        there = any((self.partial / name).exists() for name in (PLAN_FILE, schema.MANIFEST))
        if found is not None and there and not self._resumable(found):
            raise StoreError(
                f"{printable(self.partial)} is the rest of another run: remove the folder first"
            )
        if self.is_done():  # it got its name since, and the folder is one that was made again
            if self._nothing_recorded():
                discard_partial(self.target)
            return
        self._fill()
        self.claims = claims = self.claims or Claims(self.partial, self.claim_timeout)
        self.held_by_others = {}
        for number in self.mine:
            if number in self.recorded or number in claims.held:
                continue
            holder = claims.take(number)
            if holder is not None:
                self.held_by_others[number] = holder

    @property
    def pending(self) -> list[int]:
        """Numbers of the units that this run has claimed and not recorded."""
        held = self.claims.held if self.claims is not None else set()
        return [number for number in super().pending if number in held]

    def record(self, entry: dict[str, Any]) -> None:
        super().record(entry)
        if self.claims is not None:
            self.claims.release([entry["unit"]])
            self.claims.renew()

    def same_kind(self, kind: Mapping[str, Any]) -> None:
        """Refuse to go on where what began this store was of another kind.

        Raises
        ------
        DeviceError
            Names the first difference.
        """
        path = self.partial / KIND
        if place_new(path, document_bytes(kind)):
            return
        try:
            known = read_json(self.partial, KIND)
        except FileNotFoundError:  # the store has been finished since
            return
        for name, value in kind.items():
            if known.get(name) != value:
                raise DeviceError(
                    f"the parts of {printable(self.target)} were begun with {name} "
                    f"{printable(known.get(name))}, and here it is {printable(value)}: last bits "
                    "may differ; use machines of one kind, or say --allow-mixed-devices"
                )

    @property
    def recorded_by_all(self) -> int:
        """Units that are recorded, by whichever run."""
        units = range(len(self.plan.units))
        if self.is_done() or (self.partial / schema.MANIFEST).exists():
            return len(units)
        return sum((self.partial / record_name(number)).exists() for number in units)
