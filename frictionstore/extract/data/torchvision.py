"""torchvision's classification sets."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import DatasetError
from frictionstore.extract.data.base import (
    ChangedError,
    DatasetOptions,
    content_hash,
    refuse,
)
from frictionstore.extract.data.torchvision_files import explain, recorded_files, set_files
from frictionstore.installed import install_command
from frictionstore.text import did_you_mean, printable


class TorchvisionSet:
    """A classification set of torchvision, read by torchvision itself."""

    value_range = (0.0, 1.0)

    def __init__(self, name: str, options: DatasetOptions) -> None:
        self.name, kind = _torchvision_class(name)
        refuse(options, self.name, "count", "seed")
        self.images, self.split = _open_torchvision(self.name, kind, options)
        self.read_from = recorded_files(set_files(kind, self.split), options.root)
        if len(self.images) == 0:
            raise DatasetError(f"the data set {self.name} is empty")
        first = self._item(0)
        if not hasattr(first[0], "convert") or not _is_whole(first[1]):
            raise DatasetError(
                f"torchvision's {self.name} does not give (image, class) pairs: "
                "only classification sets can be extracted"
            )
        self.in_memory = isinstance(getattr(self.images, "data", None), np.ndarray) or hasattr(
            getattr(self.images, "data", None), "numpy"
        )
        self.ids = [str(index) for index in range(len(self.images))]
        self.labels = self._read_labels()
        names = getattr(self.images, "classes", None)
        count = int(self.labels.max()) + 1
        if names is None or len(names) < count:
            names = range(count)
        self.class_names = [
            "/".join(map(str, n)) if isinstance(n, tuple) else str(n) for n in names
        ]
        for class_name in self.class_names:
            if any("\ud800" <= letter <= "\udfff" for letter in class_name):
                raise DatasetError(
                    f"{self.name} has a class named {printable(class_name)}, which is not text: "
                    "its files are damaged"
                )
        self._pixel_sums: list[int] | None = None

    def _item(self, index: int) -> tuple[Any, Any]:
        from frictionstore.extract.data.decoding import named_formats_only

        try:
            with named_formats_only():
                item = self.images[index]
        except Exception as error:  # torchvision and Pillow raise whatever they met
            raise DatasetError(
                f"image {index} of {self.name} cannot be read: {_reason(error)}"
            ) from error
        if not isinstance(item, tuple) or len(item) != 2:
            raise DatasetError(
                f"torchvision's {self.name} does not give (image, class) pairs: "
                "only classification sets can be extracted"
            )
        return item

    def _read_labels(self) -> NDArray[np.int32]:
        for key in ("targets", "labels", "_labels"):
            found = getattr(self.images, key, None)
            if found is not None and len(found) == len(self.images):
                return np.asarray(found).astype(np.int32)
        return np.array([self._item(i)[1] for i in range(len(self.images))], dtype=np.int32)

    def describe(self) -> dict[str, Any]:
        data = getattr(self.images, "data", None)
        parts: Iterable[bytes]
        if self.in_memory:
            pixels = np.ascontiguousarray(np.asarray(data))
            parts = [repr((pixels.shape, pixels.dtype.str)).encode(), pixels.tobytes()]
        else:
            self._pixel_sums = []
            parts = self._summed(self._pixel_sums)
        whole = content_hash(
            [
                *(name.encode() for name in self.class_names),
                self.labels.tobytes(),
                content_hash(parts).encode(),
            ]
        )
        described = {"name": self.name.lower(), "content_sha256": whole}
        if self.split is not None:
            described["split"] = self.split
        return described

    def _summed(self, sums: list[int]) -> Iterator[bytes]:
        """Every image's pixels, whose checksums are kept for `load` to compare."""
        for index in range(len(self.images)):
            pixels = self._pixel_bytes(index, self._item(index)[0])
            sums.append(zlib.crc32(pixels))
            yield pixels

    def _pixel_bytes(self, index: int, image: Any) -> bytes:
        try:
            return repr((image.size, image.mode)).encode() + image.tobytes()
        except Exception as error:
            raise DatasetError(
                f"image {index} of {self.name} cannot be read: {_reason(error)}"
            ) from error

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        from frictionstore.extract.data.images import to_array

        image = self._item(index)[0]
        sums = self._pixel_sums
        if sums is not None and zlib.crc32(self._pixel_bytes(index, image)) != sums[index]:
            raise ChangedError(f"{index} of {self.name}")
        try:
            return to_array(image, size, grey)
        except Exception as error:  # a file that Pillow opened and cannot decode
            raise DatasetError(
                f"image {index} of {self.name} cannot be read: {_reason(error)}"
            ) from None


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


BUILT_IN = ("digits", "photos", "noise", "folder:PATH")


def _torchvision_class(name: str) -> tuple[str, Any]:
    """A set's proper name and class; the name's case does not matter."""
    if find_spec("torchvision") is None:
        raise DatasetError(
            f"unknown data set {printable(name)!r}: digits, photos, noise and folder:PATH are "
            f"built in, and torchvision's sets need: {install_command('extract')}"
            + did_you_mean(name, BUILT_IN)
        )
    try:
        import torchvision.datasets as sets
    except Exception as error:  # a torchvision that does not fit its torch raises RuntimeError
        raise DatasetError(
            f"torchvision, which reads {printable(name)}, cannot be imported ({_reason(error)}): "
            "install a torch and a torchvision that belong together"
        ) from error

    generated = {"FakeData", "DatasetFolder", "ImageFolder", "VisionDataset", "StanfordCars"}
    usable = {proper.lower(): proper for proper in sets.__all__ if proper not in generated}
    if name.lower() in usable:
        proper = usable[name.lower()]
        return proper, getattr(sets, proper)
    raise DatasetError(
        f"unknown data set {printable(name)!r}: choose digits, photos, noise, folder:PATH or a "
        "classification set of torchvision, such as cifar10"
        + did_you_mean(name, (*BUILT_IN, *usable))
    )


def _open_torchvision(name: str, kind: Any, options: DatasetOptions) -> tuple[Any, str | None]:
    """The set and the split it was opened with; train/test sets give test unless told."""
    import inspect

    known = inspect.signature(kind.__init__).parameters
    arguments: dict[str, Any] = {}
    split = options.split
    if "train" in known:
        split = "test" if split is None else split
        if split not in ("train", "test"):
            raise DatasetError(
                f"{name} has no split {printable(split)!r}: choose train or test"
                + did_you_mean(split, ("train", "test"))
            )
        arguments["train"] = split == "train"
    elif "split" in known:
        split = known["split"].default if split is None else split
        arguments["split"] = split
    elif split is not None:
        raise DatasetError(f"the data set {name} has no splits: leave --split out")
    can = "download" in known
    if can:
        arguments["download"] = options.download
    try:
        with _silence_ends():
            return kind(root=str(options.root), **arguments), split
    except ImportError as error:
        raise DatasetError(
            f"torchvision's {name} needs another package: {_reason(error)}"
        ) from error
    except Exception as error:  # of readers of archives, of tables and of pickles, of networks
        if isinstance(error, TypeError | ValueError) and "argument" in str(error):
            raise DatasetError(f"{name} cannot be opened: {_reason(error)}") from error
        where = f"{name} cannot be opened in {printable(options.root)}"
        hint = explain(set_files(kind, split), options.root, options.download)
        if hint is not None:
            network = isinstance(error, OSError) and options.download
            also = f" (and fetching it failed: {_reason(error)})" if network else ""
            raise DatasetError(f"{where}: {hint}{also}") from error
        hint = (
            "let torchvision fetch it with --download"
            if can and not options.download
            else "put its files there first"
            if not can
            else "check the network, or put its files there"
        )
        raise DatasetError(f"{where} ({_reason(error)}): {hint}") from error


SILENCE = 20.0  # seconds without a byte after which a server of a data set is given up


@contextmanager
def _silence_ends() -> Iterator[None]:
    """torchvision waits for ever for a server that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return printable(text) or type(error).__name__
