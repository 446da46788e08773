"""One part of a store read, and who reads: this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.collecting import part_of, seen
from frictionstore.analyses.core.derived import AT
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.source import REPEATS, MapStore, chunks
from frictionstore.text import printable

Arrays = dict[str, NDArray[Any]]


class Reader(Protocol):
    """Who reads a store's parts, and yields what each of some collectors has seen of each part."""

    def __call__(
        self, store: MapStore, collectors: Sequence[Any], of: Sequence[slice],
        advance: Callable[[int], None],
    ) -> Iterator[list[dict[str, Any]]]: ...  # fmt: skip


def read_here(
    store: MapStore, collectors: Sequence[Any], of: Sequence[slice], advance: Callable[[int], None]
) -> Iterator[list[dict[str, Any]]]:
    """Read a store's parts in this process: see `Reader`."""
    for part in of:
        yield read_part(store, collectors, part, advance)


readers: ContextVar[Reader] = ContextVar("readers", default=read_here)
"""Who reads, for the passes of this context."""


def read_part(
    store: MapStore, collectors: Sequence[Any], part: slice, advance: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Return what each collector has seen of one part, of which the first looks for NaN."""
    names = names_of(collectors)
    broken, *active = [part_of(collector) for collector in collectors]
    for rows, arrays in chunks(store, names, part=part):
        maps = {name: _as_map(arrays[name]) for name in names}
        broken.update(rows, maps)
        if not broken.found:
            for collector in active:
                collector.update(rows, maps)
        advance(rows.stop - rows.start)
    return [seen(collector) for collector in (broken, *active)]


def names_of(collectors: Sequence[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for c in collectors for name in c.features))


def look(store: MapStore, collectors: Sequence[Any]) -> None:
    """Show the first chunk to collectors that take a constant off, the same in every part."""
    names = names_of(collectors)
    for _, arrays in islice(store.iter_chunks(names, threads=1), 1) if names else ():
        maps = {name: _as_map(arrays[name]) for name in names}
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused later
            for collector in collectors:
                collector.look(maps)


class NotFinite:
    """Counts values that are not finite, by map and image."""

    state = ("found",)

    def __init__(self, features: tuple[str, ...]) -> None:
        self.features = features
        self.begin()

    def begin(self) -> None:
        self.found: dict[str, list[tuple[int, int]]] = {}

    def update(self, rows: slice, maps: Arrays) -> None:
        for name, values in maps.items():
            if not np.issubdtype(values.dtype, np.floating):
                continue
            finite = np.isfinite(values)
            if finite.all():
                continue
            bad = (~finite).reshape(len(values), -1).sum(axis=1)
            images = np.flatnonzero(bad)
            self.found.setdefault(name, []).extend(
                (rows.start + int(i), int(bad[i])) for i in images
            )

    def check(self, store: MapStore) -> None:
        """Raise if there were any."""
        if not self.found:
            return
        name, images = next(iter(self.found.items()))
        feature, _, repeat = name.partition(AT)
        name = f"{feature}{REPEATS}" if repeat else name
        total = sum(count for _, count in images)
        shown = ", ".join(
            f"{printable(str(store.image_ids[row]))!r} (row {row}: {count})"
            for row, count in images[:5]
        )
        more = f" and {len(images) - 5} more" if len(images) > 5 else ""
        values = "1 value that is" if total == 1 else f"{total} values that are"
        raise AnalysisError(
            f"map {printable(name)!r} of {printable(store.name)} holds {values} NaN or infinite, "
            f"in {len(images)} of {store.n_images} images: {shown}{more}; extract these images "
            "again, or leave them out of the store"
        )


def _as_map(values: NDArray[Any]) -> NDArray[Any]:
    """Return a map with a mode axis: maps of one number per patch have one mode."""
    return values[..., None] if values.ndim == 3 else values
