"""Data sets: ordered ids, labels, class names, a content hash, and images on demand.

What lives here: the bundled sets, folders, and torchvision's sets. Opening one (all that the
fingerprint needs) does not import torch, except for torchvision's own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from frictionstore import schema
from frictionstore.errors import DatasetError
from frictionstore.extract.noise import KIND_NAMES, LIMIT, indexed_noise_image
from frictionstore.extract.torchvision_files import explain, recorded_files, set_files
from frictionstore.fingerprint import file_sha256
from frictionstore.installed import install_command
from frictionstore.progress import Report
from frictionstore.text import did_you_mean, listed, printable

Array = NDArray[Any]


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


def content_hash(parts: Iterable[bytes]) -> str:
    """SHA-256 over parts, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _refuse(options: DatasetOptions, name: str, *given: str) -> None:
    for key in given:
        if getattr(options, key) is not None:
            raise DatasetError(f"the data set {printable(name)} has no --{key}: leave it out")


def _sklearn_file(*parts: str) -> bytes:
    """A file that scikit-learn ships, without importing scikit-learn."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError(f"scikit-learn is not installed: {install_command('extract')}")
    path = Path(spec.submodule_search_locations[0], "datasets", *parts)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"scikit-learn's {'/'.join(parts)} cannot be read ({error.strerror}): "
            "reinstall scikit-learn"
        ) from error


class Digits:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 with 17 grey levels."""

    in_memory = True
    value_range = (0.0, 1.0)

    def __init__(self, options: DatasetOptions) -> None:
        _refuse(options, "digits", "split", "count", "seed")
        text = gzip.decompress(_sklearn_file("data", "digits.csv.gz"))
        table = np.loadtxt(io.BytesIO(text), delimiter=",")
        self.pixels = np.rint(table[:, :-1] * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 8, 8)
        self.labels = table[:, -1].astype(np.int32)
        self.ids = [str(index) for index in range(len(table))]
        self.class_names = [str(digit) for digit in range(10)]
        self._hash = hashlib.sha256(text).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {"name": "digits", "content_sha256": self._hash}

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        from PIL import Image

        from frictionstore.extract.images import to_array

        return to_array(Image.fromarray(self.pixels[index]), size, grey)


class Photos:
    """Every whole 64 x 64 crop of scikit-learn's two sample photographs, row by row."""

    in_memory = True
    value_range = (0.0, 1.0)
    CROP = 64
    NAMES = ("china", "flower")

    def __init__(self, options: DatasetOptions) -> None:
        _refuse(options, "photos", "split", "count", "seed")
        from PIL import Image

        files = [_sklearn_file("images", f"{name}.jpg") for name in self.NAMES]
        self._hash = content_hash(files)
        self.class_names = list(self.NAMES)
        self.ids, labels, crops = [], [], []
        for label, (name, data) in enumerate(zip(self.NAMES, files, strict=True)):
            photo = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            for row in range(photo.shape[0] // self.CROP):
                for column in range(photo.shape[1] // self.CROP):
                    top, left = row * self.CROP, column * self.CROP
                    crops.append(photo[top : top + self.CROP, left : left + self.CROP])
                    self.ids.append(f"{name}/row{row}-col{column}")
                    labels.append(label)
        self.labels = np.array(labels, dtype=np.int32)
        self.crops = np.stack(crops)

    def describe(self) -> dict[str, Any]:
        return {"name": "photos", "crop": self.CROP, "content_sha256": self._hash}

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        from PIL import Image

        from frictionstore.extract.images import to_array

        return to_array(Image.fromarray(self.crops[index]), size, grey)


class Noise:
    """The sixteen kinds of noise the encoders are trained on, in turn; values in [-4, 4]."""

    in_memory = True
    value_range = (-LIMIT, LIMIT)
    DEFAULT_COUNT = 1600

    def __init__(self, options: DatasetOptions) -> None:
        _refuse(options, "noise", "split")
        self.count = self.DEFAULT_COUNT if options.count is None else options.count
        self.seed = 0 if options.seed is None else options.seed
        kinds = len(KIND_NAMES)
        self.class_names = list(KIND_NAMES)
        self.labels = (np.arange(self.count) % kinds).astype(np.int32)
        self.ids = [f"{KIND_NAMES[i % kinds]}-{i}" for i in range(self.count)]

    def describe(self) -> dict[str, Any]:
        # One image of each kind stands for the generators: a change to any of them, or to
        # NumPy's streams, changes the hash.
        sample = [indexed_noise_image(i, 16, self.seed).tobytes() for i in range(len(KIND_NAMES))]
        return {"name": "noise", "seed": self.seed, "content_sha256": content_hash(sample)}

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        from frictionstore.extract.images import luma

        image = indexed_noise_image(index, size, self.seed)
        return luma(image) if grey else image


class Folder:
    """Image files: one class per sub-folder, or flat and without labels."""

    in_memory = False
    value_range = (0.0, 1.0)

    def __init__(self, path: Path, options: DatasetOptions, report: Report) -> None:
        _refuse(options, f"folder:{path}", "split", "count", "seed")
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise DatasetError(f"folder:{printable(path)} {what}: name a folder with images")
        self.path = path
        endings = _image_endings()
        classes = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        flat, ignored = _image_files(path, endings, recurse=False)
        files: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(classes):
            found, other = _image_files(folder, endings, recurse=True)
            ignored += other
            files += found
            labels += [label] * len(found)
        if flat and files:
            raise DatasetError(
                f"folder:{printable(path)} has images both directly ({flat[0].name}, ...) and in "
                "sub-folders: use class sub-folders only, or none"
            )
        if not flat and not files:
            raise DatasetError(
                f"folder:{printable(path)} has no images: expected files like .png or .jpg, "
                "directly or in one sub-folder per class"
            )
        if files:
            present = set(labels)
            empty = [folder.name for i, folder in enumerate(classes) if i not in present]
            if empty:
                raise DatasetError(
                    f"folder:{printable(path)} has class folders without images "
                    f"({listed(empty)}): remove them or add images"
                )
        if ignored:
            report(f"folder:{printable(path)}: {ignored:,} files that are not images were ignored")
        self.files = flat or files
        self.class_names = [_as_text(folder.name) for folder in classes] if files else []
        self.labels = (
            np.array(labels, dtype=np.int32)
            if files
            else np.full(len(flat), schema.NO_LABEL, np.int32)
        )
        self.ids = [_as_text(str(file.relative_to(path).as_posix())) for file in self.files]

    def describe(self) -> dict[str, Any]:
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            try:
                digests = list(pool.map(file_sha256, self.files))
            except OSError as error:
                raise DatasetError(
                    f"{printable(error.filename)} cannot be read: {error.strerror}"
                ) from error
        parts = [name.encode() for name in self.class_names]
        for name, label, digest in zip(self.ids, self.labels, digests, strict=True):
            parts.append(f"{name}\0{label}\0{digest}".encode())
        return {"name": "folder", "content_sha256": content_hash(parts)}

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        from PIL import Image

        from frictionstore.extract.images import to_array

        try:
            with Image.open(self.files[index]) as image:
                return to_array(image, size, grey)
        except Exception as error:  # Pillow's decoders raise whatever they meet
            reason = "it is not an image that Pillow can read"
            if not isinstance(error, Image.UnidentifiedImageError):
                reason = printable(error) or type(error).__name__
            raise DatasetError(
                f"image {printable(self.ids[index])} cannot be read: {reason}"
            ) from None


def _as_text(name: str) -> str:
    """A file name as text, also where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _image_endings() -> set[str]:
    from PIL import Image

    known = Image.registered_extensions()
    return {ending for ending, kind in known.items() if kind in Image.OPEN}


def _image_files(folder: Path, endings: set[str], recurse: bool) -> tuple[list[Path], int]:
    """Files with an image's ending, sorted by path, and the number of other files."""
    found, other = [], 0
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")] if recurse else []
        for name in names:
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in endings:
                found.append(Path(parent, name))
            else:
                other += 1
    return sorted(found, key=lambda path: path.as_posix()), other


class TorchvisionSet:
    """A classification set of torchvision, read by torchvision itself."""

    value_range = (0.0, 1.0)

    def __init__(self, name: str, options: DatasetOptions) -> None:
        self.name, kind = _torchvision_class(name)
        _refuse(options, self.name, "count", "seed")
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

    def _item(self, index: int) -> tuple[Any, Any]:
        try:
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
            parts = (self._pixel_bytes(i) for i in range(len(self.images)))
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

    def _pixel_bytes(self, index: int) -> bytes:
        image = self._item(index)[0]
        try:
            return repr((image.size, image.mode)).encode() + image.tobytes()
        except Exception as error:
            raise DatasetError(
                f"image {index} of {self.name} cannot be read: {_reason(error)}"
            ) from error

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        from frictionstore.extract.images import to_array

        image = self._item(index)[0]
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
        added = ("count", "skip_unreadable")
        self._described = {key: value for key, value in described.items() if key not in added}
        self.ids = [str(index) for index in range(count)]
        self.labels = np.full(count, schema.NO_LABEL, np.int32)
        self.class_names: list[str] = []

    def describe(self) -> dict[str, Any]:
        return dict(self._described)

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        raise DatasetError(f"image {index} is known by its store only")


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
        return Folder(Path(name.removeprefix("folder:")).expanduser(), options, report)
    return TorchvisionSet(name, options)


def whole(dataset: Dataset) -> Dataset:
    """The set that a `Part`, of a part perhaps, is of."""
    while isinstance(dataset, Part):
        dataset = dataset.whole
    return dataset


def unreadable(dataset: Dataset, size: int, threads: int | None = None) -> list[int]:
    """Indices of the images that cannot be read: every image is decoded once."""

    def fails(index: int) -> bool:
        try:
            dataset.load(index, size)
        except DatasetError:
            return True
        return False

    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 8)) as pool:
        failed = pool.map(fails, range(len(dataset.ids)), chunksize=16)
        return [index for index, bad in enumerate(failed) if bad]
