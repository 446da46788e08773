"""Numbers of every image, kept while a store is analysed: in memory, or on disk if they are many.

Here is where such numbers lie and how they are had again, some images at a time. What they are is
the affair of who keeps them.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.text import printable

KEPT = 8 << 20
"""Bytes of numbers of images that are kept in memory; where there are more, all are in a file."""

BLOCK = 8192
"""Images had again at a time."""

Arrays = dict[str, NDArray[Any]]


class ImageRows:
    """Arrays with a row for every image of a store, by name.

    A part of the images is gathered with `add`; what parts have come together to is `whole`. The
    file has no name and is gone with the last who reads it.

    Parameters
    ----------
    n_images
        Images of all parts together.
    """

    def __init__(self, n_images: int) -> None:
        self.n_images = n_images
        self._held: list[Mapping[str, NDArray[Any]]] = []
        self._done = 0
        self._arrays: Arrays = {}
        self._file: int | None = None
        self._places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}

    def add(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Keep some numbers of the next images of a part, each (b, ...)."""
        self._held.append(rows)

    def absorb(self, other: ImageRows) -> None:
        """Take in what another holds of the next part."""
        self.whole()
        self._held, other._held = other._held, []
        self.whole()

    def whole(self) -> ImageRows:
        """Put what is held in its place, and return itself."""
        for name in self._held[0] if self._held else ():
            start = self._done
            for rows in self._held:
                self._put(name, start, rows[name])
                start += len(rows[name])
        if self._held:
            self._done = start
        self._held = []
        return self

    def __contains__(self, name: object) -> bool:
        return name in self._arrays or name in self._places

    def __getitem__(self, name: str) -> NDArray[Any]:
        """An array of all images; of a file its pages are read as they are looked at."""
        if name in self._arrays:
            return self._arrays[name]
        assert self._file is not None
        offset, dtype, shape = self._places[name]
        size = max(self.n_images * _row_bytes(dtype, shape), 1)
        mapped = mmap.mmap(self._file, size, access=mmap.ACCESS_COPY, offset=offset)
        return np.frombuffer(mapped, dtype, int(np.prod(shape, dtype=np.int64))).reshape(shape)

    def blocks(self, *names: str) -> Iterator[tuple[slice, list[NDArray[Any]]]]:
        """Yield some images after others and their rows of some arrays, not to be changed."""
        for start in range(0, self.n_images, BLOCK):
            rows = slice(start, min(start + BLOCK, self.n_images))
            yield rows, [self._get(name, rows) for name in names]

    def column(self, name: str, which: int) -> NDArray[Any]:
        """Return a column of an array of shape (n_images, columns), in memory."""
        # Copied, as a view would keep its whole block.
        return np.concatenate([values[:, which].copy() for _, (values,) in self.blocks(name)])

    def derive(
        self, name: str, function: Callable[..., NDArray[Any]], *of: str, rows: bool = False
    ) -> None:
        """Make an array of others, some images at a time; one of its name is written over.

        `function` is given the rows of each array in `of` and, where it asks for them by `rows`,
        first which images they are.
        """
        for where, values in self.blocks(*of):
            self._put(name, where.start, function(*((where, *values) if rows else values)))

    def put_column(self, name: str, which: int, of: str, values: NDArray[Any]) -> None:
        """Write a column of an array that has the shape of the array `of`."""

        def changed(rows: slice, there: NDArray[Any]) -> NDArray[Any]:
            there = there.copy()
            there[:, which] = values[rows]
            return there

        self.derive(name, changed, name if name in self else of, rows=True)

    # ---- where they are ----------------------------------------------------------------------

    def _get(self, name: str, rows: slice) -> NDArray[Any]:
        if name in self._arrays:
            return self._arrays[name][rows]
        assert self._file is not None
        offset, dtype, shape = self._places[name]
        size = _row_bytes(dtype, shape)
        count = (rows.stop - rows.start) * size
        data = os.pread(self._file, count, offset + rows.start * size)
        return np.frombuffer(data, dtype).reshape(-1, *shape[1:])

    def _put(self, name: str, start: int, values: NDArray[Any]) -> None:
        if name not in self:
            self._place(name, values)
        if name in self._arrays:
            self._arrays[name][start : start + len(values)] = values
            return
        assert self._file is not None
        offset, dtype, shape = self._places[name]
        _write(
            self._file, offset + start * _row_bytes(dtype, shape), values.astype(dtype, copy=False)
        )

    def _place(self, name: str, values: NDArray[Any]) -> None:
        """Find room for an array, of which some rows are known."""
        shape = (self.n_images, *values.shape[1:])
        first = self._held[0].values() if self._held else ()
        size = sum(self.n_images * _row_bytes(one.dtype, one.shape) for one in first)
        if self._file is None and (self._arrays or size <= KEPT):
            self._arrays[name] = np.empty(shape, values.dtype)
            return
        with _explained():
            if self._file is None:
                self._file = _file_of(self)
            step = mmap.ALLOCATIONGRANULARITY
            offset = -(-os.fstat(self._file).st_size // step) * step
            bytes_of = max(self.n_images * _row_bytes(values.dtype, shape), 1)
            _make_room(self._file, offset, bytes_of)
        self._places[name] = offset, values.dtype, shape


class Pile:
    """Rows of one shape, one put on the other, and had again by their numbers.

    In memory, or in a file where they are more than `KEPT`; pickled with all rows.
    """

    def __init__(self) -> None:
        self._held: list[NDArray[Any]] = []
        self._bytes = 0
        self._count = 0
        self._file: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        every = [self.take(np.arange(self._count))] if self._count else []
        return {"_held": every, "_bytes": self._bytes, "_count": self._count, "_file": None}

    def add(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Put rows, (b, ...), at least one, on the others, and return their numbers."""
        numbers = np.arange(self._count, self._count + len(rows))
        self._held.append(rows)
        self._bytes += rows.nbytes
        self._count += len(rows)
        if self._file is None and self._bytes > KEPT:
            with _explained():
                self._file = _file_of(self)
        if self._file is not None:
            held = np.concatenate(self._held)
            _write(self._file, self._bytes - held.nbytes, held)
            self._held = [rows[:0]]
        return numbers

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, which must not be changed."""
        if len(self._held) > 1:
            self._held = [np.concatenate(self._held)]
        (held,) = self._held
        if self._file is None:
            return np.asarray(held[numbers])
        size = self._bytes // self._count
        if len(numbers) and (np.diff(numbers) == 1).all():
            data = os.pread(self._file, len(numbers) * size, int(numbers[0]) * size)
        else:
            data = b"".join(os.pread(self._file, size, int(number) * size) for number in numbers)
        return np.frombuffer(data, held.dtype).reshape(-1, *held.shape[1:])


class Taken:
    """Some rows of a pile, as an array that is read when it is indexed along its first axis."""

    def __init__(self, pile: Pile, numbers: NDArray[np.int64]) -> None:
        self._pile = pile
        self._numbers = numbers
        self.shape = (len(numbers), *pile.take(numbers[:0]).shape[1:])

    def __getitem__(self, which: Any) -> NDArray[Any]:
        return self._pile.take(self._numbers[which])


def _file_of(owner: object) -> int:
    """Return a file that has no name and is gone with its owner."""
    with tempfile.TemporaryFile(dir=_folder()) as file:
        descriptor = os.dup(file.fileno())
    weakref.finalize(owner, os.close, descriptor)
    return descriptor


def _make_room(file: int, offset: int, size: int) -> None:
    """Have a file reach so far; a disk that is too full is known before the work, if it tells."""
    try:
        os.posix_fallocate(file, offset, size)
    except AttributeError:  # not on this system
        os.ftruncate(file, offset + size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not on this file system
            raise
        os.ftruncate(file, offset + size)


def _write(file: int, place: int, values: NDArray[Any]) -> None:
    left = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    with _explained():
        while left:
            written = os.pwrite(file, left, place)
            left, place = left[written:], place + written


def _row_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return int(dtype.itemsize * np.prod(shape[1:], dtype=np.int64))


def _folder() -> str:
    """Return where files without a name are made: in TMPDIR if it is set, and nowhere else then."""
    return os.environ.get("TMPDIR") or tempfile.gettempdir()


@contextmanager
def _explained() -> Iterator[None]:
    """Say in words that numbers of images could not be kept on disk."""
    try:
        yield
    except OSError as error:
        raise AnalysisError(
            f"numbers of single images do not fit in memory and cannot be kept in "
            f"{printable(os.environ.get('TMPDIR') or 'the folder for temporary files')}: "
            f"{error.strerror or printable(error)}; name a folder with room for them in TMPDIR"
        ) from error


class Column(Sequence[Any]):
    """A column of a table that is made when it is looked at, some rows at a time.

    Parameters
    ----------
    length
        Rows of the table.
    make
        Returns the values of some rows, given as a slice.
    """

    def __init__(self, length: int, make: Callable[[slice], Any]) -> None:
        self._length = length
        self._make = make

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            start, stop, step = which.indices(self._length)
            return self._make(slice(start, max(start, stop)))[::step]
        row = range(self._length)[which]
        return self._make(slice(row, row + 1))[0]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._length, BLOCK):
            yield from self[start : start + BLOCK]

    def take(self, rows: Sequence[int]) -> list[Any]:
        """Return the values of some rows, in their order."""
        found: dict[int, Any] = {}
        for start, of_block in groupby(sorted(rows), lambda row: row // BLOCK * BLOCK):
            block = self[start : start + BLOCK]
            found |= {row: block[row - start] for row in of_block}
        return [found[row] for row in rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def ids_of(store: Any, rows: slice) -> list[str]:
    """Return the names of some images; a store that reads them does not read the others."""
    if "image_ids" not in vars(store) and hasattr(store, "read"):
        return [str(name) for name in store.read("image_id", rows)]
    return [str(name) for name in store.image_ids[rows]]


def rows_of_classes(labels: NDArray[np.integer[Any]], n_classes: int) -> list[NDArray[np.int64]]:
    """Return the rows of the images of each class, in order; label -1 is of none."""
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels, np.arange(n_classes + 1), sorter=order)
    return [order[start:stop] for start, stop in pairwise(ends)]
