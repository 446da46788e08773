"""Load, encode, measure, write: the stages of an extraction, overlapping, in bounded memory.

Images come from worker processes or a thread, a GPU is given its next batch before it has finished
the last, and one unit is computed while the one before is compressed and written. Memory is that of
two units and a few batches, whatever the data set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import DatasetError, MeasurementError
from frictionstore.extract.data.base import Dataset, rows_in_whole
from frictionstore.extract.donors import DONATED, donors_of
from frictionstore.extract.engines.base import Engine, Maps, Started
from frictionstore.extract.loading import Batch, BatchLoader, loaded
from frictionstore.format import schema
from frictionstore.format.plan import StorePlan
from frictionstore.text import printable

Progress = Callable[[int], None]


class Units(Protocol):
    """Where units go: a `StoreWriter`, or what stands for it on a worker."""

    @property
    def plan(self) -> StorePlan: ...

    @property
    def pending(self) -> list[int]: ...

    def write_unit(
        self, number: int, arrays: Mapping[str, NDArray[Any]], run: Mapping[str, Any]
    ) -> None: ...


def plan_batches(units: list[range], batch_size: int, tile: int) -> list[range]:
    """Rows of each batch: cut at units, and inside a unit at multiples of `tile`."""
    step = max(tile, batch_size // tile * tile)
    return [
        range(first, min(first + step, unit.stop))
        for unit in units
        for first in range(unit.start, unit.stop, step)
    ]


def measured(
    source: Iterator[Batch],
    engine: Engine,
    dataset: Dataset | None = None,
    donors: Iterator[Batch] | None = None,
) -> Iterator[tuple[Batch, Maps, dict[str, Any]]]:
    """Each batch, its maps and what measured it, in order.

    Rows of a batch are those of `dataset`, or without it those of the whole set. `donors` gives for
    each batch the images whose singular vectors `friction_donor` is made of.

    Raises
    ------
    DatasetError
        A batch's images cannot be read; those before it have been given.
    """
    under_way: deque[tuple[Batch, Started]] = deque()

    def finish() -> tuple[Batch, Maps, dict[str, Any]]:
        batch, started = under_way.popleft()
        return batch, started.finish(), started.described

    for batch in source:
        donated = None if donors is None else next(donors)
        failed = next((one for one in (batch, donated) if one and one.images is None), None)
        if failed is not None:
            while under_way:
                yield finish()
            raise DatasetError(failed.failure or "")
        assert batch.images is not None
        rows = np.array(batch.rows) if dataset is None else rows_in_whole(dataset, batch.rows)
        given = () if donated is None else (donated.images,)
        under_way.append((batch, engine.start(batch.images, rows, *given)))
        if len(under_way) > engine.ahead:
            yield finish()
    while under_way:
        yield finish()


def check_finite(maps: Maps, ids: list[str], first_row: int) -> None:
    """Refuse NaN and infinite values.

    Raises
    ------
    MeasurementError
        Names the first image that has one, and the map.
    """
    worst: tuple[int, str] | None = None
    for name, values in maps.items():
        if values.dtype.kind != "f":
            continue
        good = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not good.all():
            row = int(np.argmin(good))
            if worst is None or row < worst[0]:
                worst = (row, name)
    if worst is not None:
        row, name = worst
        raise MeasurementError(
            f"{name} of image {printable(ids[row])} (row {first_row + row}) is NaN or infinite: "
            "the encoder's weights or this image hold such values, or are too large"
        )


def extract_units(
    writer: Units,
    dataset: Dataset,
    engine: Engine,
    *,
    image_size: int,
    batch_size: int,
    workers: int,
    run: dict[str, Any],
    progress: Progress = lambda images: None,
    seen: Callable[[Maps], None] = lambda maps: None,
    groups: NDArray[np.int32] | None = None,
) -> int:
    """Measure and write every unit that is not recorded yet.

    Parameters
    ----------
    writer : Units
        Its plan fits the data set and the engine.
    dataset : Dataset
    engine : Engine
    image_size, batch_size, workers : int
    run : dict
        Recorded with each unit.
    progress, seen : callable
        Each time some images were measured, told how many, and given their maps.
    groups : ndarray, optional
        Group of each image, where the plan has an array of them.

    Returns
    -------
    int
        Images measured.

    Raises
    ------
    DatasetError
        An image cannot be read.
    MeasurementError
        A measured value is not finite.
    StoreError
        A unit cannot be written.
    """
    numbers = writer.pending
    units = [writer.plan.units[number] for number in numbers]
    batches = plan_batches(units, batch_size, engine.tile_images(image_size))
    wanted = [dataset, donors_of(dataset)] if DONATED in engine.maps else [dataset]
    sources = [
        loaded(BatchLoader(one, batches, image_size, engine.channels), workers) for one in wanted
    ]
    results = measured(sources[0], engine, dataset, *sources[1:])
    count = 0
    with ThreadPoolExecutor(1, thread_name_prefix="frictionstore-write") as pool:
        writing: Future[None] | None = None
        try:
            for number, unit in zip(numbers, units, strict=True):
                arrays = _buffers(writer, unit)
                done = unit.start
                while done < unit.stop:
                    batch, maps, described = next(results)
                    rows = batch.rows
                    check_finite(maps, dataset.ids[rows.start : rows.stop], rows.start)
                    for name, values in maps.items():
                        arrays[name][rows.start - unit.start : rows.stop - unit.start] = values
                    seen(maps)
                    done = rows.stop
                    count += len(rows)
                    progress(len(rows))
                arrays |= _index(dataset, unit, groups)
                if writing is not None:
                    writing.result()
                # Described anew for each unit: the tile may have been halved for want of memory.
                writing = pool.submit(writer.write_unit, number, arrays, {**run, **described})
            if writing is not None:
                writing.result()
        finally:
            for source in sources:
                source.close()  # type: ignore[attr-defined]
    return count


def _index(
    dataset: Dataset, unit: range, groups: NDArray[np.int32] | None
) -> dict[str, NDArray[Any]]:
    """What a store says of a unit's images besides their maps."""
    part = slice(unit.start, unit.stop)
    index = {"label": dataset.labels[part], "image_id": np.array(dataset.ids[part], dtype=object)}
    return index if groups is None else {**index, "group": groups[part]}


def _buffers(writer: Units, unit: range) -> dict[str, NDArray[Any]]:
    return {
        name: np.empty((len(unit), *shape), dtype=schema.MAPS[name].dtype)
        for name, shape in writer.plan.rows.items()
    }
