"""The data set that a name means, and images of it that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.cores import cores
from frictionstore.errors import DatasetError
from frictionstore.extract.data.base import ChangedError, Dataset, DatasetOptions
from frictionstore.extract.data.bundled import Digits, Noise, Photos
from frictionstore.extract.data.folder import Folder
from frictionstore.extract.data.torchvision import TorchvisionSet
from frictionstore.extract.given import expanded
from frictionstore.format import schema
from frictionstore.progress import Report


class RecordedSet:
    """A data set as a store's metadata have it: what a request needs, and no images.

    Parameters
    ----------
    described : mapping
        The data set's part of the store's request.
    count : int
        Images of the whole set.
    """

    in_memory = True
    value_range = (0.0, 1.0)

    def __init__(self, described: Mapping[str, Any], count: int) -> None:
        added = ("count", "skip_unreadable", "groups")
        self._described = {key: value for key, value in described.items() if key not in added}
        self.ids = [str(index) for index in range(count)]
        self.labels = np.full(count, schema.NO_LABEL, np.int32)
        self.class_names: list[str] = []

    def describe(self) -> dict[str, Any]:
        return dict(self._described)

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        raise DatasetError(f"image {index} is known by its store only")


def open_dataset(name: str, options: DatasetOptions, report: Report) -> Dataset:
    """Open a data set by name.

    Parameters
    ----------
    name : str
        ``digits``, ``photos``, ``noise``, ``folder:PATH`` or a torchvision set's name.
    options : DatasetOptions
    report : callable
        Takes remarks for the user.

    Raises
    ------
    DatasetError
        There is no such set, it cannot be opened, or an option does not apply to it.
    """
    bundled: dict[str, Callable[[DatasetOptions], Dataset]] = {
        "digits": Digits,
        "photos": Photos,
        "noise": Noise,
    }
    if name in bundled:
        return bundled[name](options)
    if name.startswith("folder:"):
        return Folder(expanded(name.removeprefix("folder:")), options, report)
    return TorchvisionSet(name, options)


def unreadable(dataset: Dataset, size: int) -> list[int]:
    """Indices of the images that cannot be read: every image is decoded once."""

    def fails(index: int) -> bool:
        try:
            dataset.load(index, size)
        except ChangedError:
            raise
        except DatasetError:
            return True
        return False

    with ThreadPoolExecutor(cores(8)) as pool:
        failed = pool.map(fails, range(len(dataset.ids)), chunksize=16)
        return [index for index, bad in enumerate(failed) if bad]
