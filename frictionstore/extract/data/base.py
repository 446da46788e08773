"""What a data set is: ordered ids, labels, class names, a hash, images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import DatasetError
from frictionstore.text import printable

Array = NDArray[Any]
REMOVE_OR_SKIP = "remove it, or leave such images out with --skip-unreadable"


class ChangedError(DatasetError):
    """An image is not what it was when the data set was hashed.

    Parameters
    ----------
    image : str
    """

    def __init__(self, image: str) -> None:
        super().__init__(
            f"image {printable(image)} has changed since this run began: let what writes it "
            "finish, then run it again"
        )
        self.image = image

    def __reduce__(self) -> tuple[Any, ...]:
        return ChangedError, (self.image,)


class Dataset(Protocol):
    """An ordered, labelled set of images."""

    ids: list[str]
    labels: NDArray[np.int32]
    class_names: list[str]
    in_memory: bool
    """Loading an image costs no file access and little decoding."""
    value_range: tuple[float, float]
    """Smallest and largest pixel value."""

    def describe(self) -> dict[str, Any]:
        """What identifies the content, for the request: name, split, content hash, ..."""

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        """Image `index` as float32 (3, size, size), or its luma (1, size, size).

        Raises
        ------
        DatasetError
            It cannot be read.
        """


@dataclass(frozen=True)
class DatasetOptions:
    """How a data set is asked for beyond its name; None where nothing was said."""

    split: str | None = None
    count: int | None = None
    seed: int | None = None
    root: Path = field(default_factory=lambda: Path("data/torchvision"))
    download: bool = False
    skip_unreadable: bool = False


def content_hash(parts: Iterable[bytes]) -> str:
    """SHA-256 over parts, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def refuse(options: DatasetOptions, name: str, *given: str) -> None:
    for key in given:
        if getattr(options, key) is not None:
            raise DatasetError(f"the data set {printable(name)} has no --{key}: leave it out")


class Part:
    """Some images of a data set, in the order given."""

    def __init__(self, whole: Dataset, indices: list[int]) -> None:
        self.whole = whole
        self.indices = indices
        self.ids = [whole.ids[i] for i in indices]
        self.labels = whole.labels[indices]
        self.class_names = whole.class_names
        self.in_memory = whole.in_memory
        self.value_range = whole.value_range

    def describe(self) -> dict[str, Any]:
        return self.whole.describe()

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        return self.whole.load(self.indices[index], size, **({"grey": True} if grey else {}))


def whole(dataset: Dataset) -> Dataset:
    """The set that a `Part`, of a part perhaps, is of."""
    while isinstance(dataset, Part):
        dataset = dataset.whole
    return dataset
