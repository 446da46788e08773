"""A store as a PyTorch data set: maps as tensors, whole units read once, any number of workers.

Beside `extract` the one module that imports torch; `import frictionstore` does not import it.
"""

from __future__ import annotations

import operator
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from frictionstore.errors import RequestError
from frictionstore.store.reader import Store, open_store
from frictionstore.store.table import checked_maps


class MapDataset(Dataset[Any]):
    """The images of a store, in any order.

    An item is ``(map, label)``: the map as stored, shape (row, col, mode), and the class as a
    position in `class_names`, -1 for none. Of several maps it is ``({name: map}, label)``.

    Parameters
    ----------
    store : Store, str or path
    maps : str or sequence of str
    kept_units : int
        Whole units (of all `maps`) that are held decoded, those used last. An image of another
        one costs reading its unit, so that an order that stays within units (`UnitBatches`)
        reads each once.
    transform : callable, optional
        What is done to the maps of an item.

    Notes
    -----
    It is pickled as an address, and opened anew in another process: workers may be forked or
    spawned. Stores on a server need spawned ones, since a client's connections do not survive a
    fork.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        maps: str | Sequence[str] = "friction",
        *,
        kept_units: int = 2,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        opened = store if isinstance(store, Store) else open_store(store)
        if kept_units < 1:
            raise RequestError(f"kept_units is {kept_units}: it must be 1 or more")
        self.maps = checked_maps(opened, maps)
        if not self.maps:
            raise RequestError(f"no map was named: choose among {', '.join(opened.maps)}")
        self.single = isinstance(maps, str)
        self.kept_units, self.transform = kept_units, transform
        self.n_images, self.class_names = opened.n_images, opened.class_names
        self.unit_images = opened.header.shard_images
        self._opened, self._process = opened, os.getpid()
        self._units: OrderedDict[int, dict[str, torch.Tensor]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_units": OrderedDict(), "_process": None}

    @property
    def store(self) -> Store:
        """The store, opened in this process."""
        if self._process != os.getpid():
            again, arguments = self._opened.__reduce__()
            self._opened, self._process = again(*arguments), os.getpid()
            self._units = OrderedDict()
        return self._opened

    def __len__(self) -> int:
        return self.n_images

    def unit(self, number: int) -> dict[str, torch.Tensor]:
        """All images of one unit, by map; not to be changed."""
        store = self.store
        if number in self._units:
            self._units.move_to_end(number)
        else:
            while len(self._units) >= self.kept_units:  # before more is held
                self._units.popitem(last=False)
            rows = slice(number * self.unit_images, (number + 1) * self.unit_images)
            self._units[number] = {
                name: torch.from_numpy(store.read(name, rows)) for name in self.maps
            }
        return self._units[number]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        row = operator.index(index)
        if not -self.n_images <= row < self.n_images:
            raise IndexError(f"image {row} of {self.n_images:,}")
        row %= self.n_images
        number, place = divmod(row, self.unit_images)
        # a copy: what is held is nobody's to change
        found = {name: some[place].clone() for name, some in self.unit(number).items()}
        value = found[self.maps[0]] if self.single else found
        return value if self.transform is None else self.transform(value), self._label(row)

    def _label(self, row: int) -> int:
        return int(self.store.labels[row])

    def loader(
        self,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        **options: Any,
    ) -> DataLoader[Any]:
        """A DataLoader that reads whole units, each in one worker.

        Parameters
        ----------
        batch_size : int
        shuffle : bool
            Units in random order and the images of each in random order, other ones every epoch.
        seed : int
        num_workers : int
        **options
            Of `torch.utils.data.DataLoader` (``pin_memory``, ``multiprocessing_context``, ...).
        """  # fmt: skip
        batches = UnitBatches(
            self, batch_size, shuffle=shuffle, seed=seed, workers=max(num_workers, 1)
        )
        return DataLoader(self, batch_sampler=batches, num_workers=num_workers, **options)


class UnitBatches(Sampler[list[int]]):
    """Batches of rows that stay within a unit until it is used up.

    Parameters
    ----------
    data : MapDataset
    batch_size : int
    shuffle : bool
        Units, and the images of each, in random order. A batch has images of one unit, or of two
        where one ends: where a store's images stand by class, mix them when it is made.
    seed : int
        Decides the order together with the number of the epoch.
    workers : int
        A DataLoader hands its batches to its workers in turn. Units are dealt to as many, so that
        each is read by one of them.
    """

    def __init__(
        self, data: MapDataset, batch_size: int, *, shuffle: bool = True, seed: int = 0,
        workers: int = 1,
    ) -> None:  # fmt: skip
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value < 1:
                raise RequestError(f"{name} is {value}: it must be 1 or more")
        if seed < 0:
            raise RequestError(f"seed is {seed}: it must be 0 or more")
        self.n_images, self.unit_images = len(data), data.unit_images
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        # in the store's order there is one stream: workers then share units
        self.workers = min(workers, -(-self.n_images // self.unit_images)) if shuffle else 1
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that comes next; it counts on by itself."""
        self.epoch = epoch

    def _streams(self) -> list[list[list[int]]]:
        """Each worker's batches."""
        units = np.arange(-(-self.n_images // self.unit_images))
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.shuffle:
            rng.shuffle(units)
            # the last unit may be short: always dealt to the first worker, so that epochs are of
            # one length
            place = int(units.argmax())
            other = place - place % self.workers
            units[[place, other]] = units[[other, place]]
        streams = []
        for worker in range(self.workers):
            rows: list[int] = []
            for unit in units[worker :: self.workers].tolist():
                first = unit * self.unit_images
                part = np.arange(first, min(first + self.unit_images, self.n_images))
                rows += (rng.permutation(part) if self.shuffle else part).tolist()
            streams.append(
                [rows[k : k + self.batch_size] for k in range(0, len(rows), self.batch_size)]
            )
        return streams

    def __iter__(self) -> Iterator[list[int]]:
        streams = self._streams()
        self.epoch += 1
        for turn in range(max(map(len, streams))):
            yield from (stream[turn] for stream in streams if turn < len(stream))

    def __len__(self) -> int:
        return sum(map(len, self._streams()))
