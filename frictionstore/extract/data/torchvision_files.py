"""The files that torchvision's sets are read from: what is missing or damaged, where to put it.

From the lists that torchvision's classes carry. A set whose class carries none is opened by
torchvision alone, and its own words are all there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from frictionstore.format.fingerprint import file_sha256
from frictionstore.text import byte_count, listed, printable


@dataclass(frozen=True)
class SetFiles:
    """Where a set's files are, relative to the folder of all sets.

    Attributes
    ----------
    files : dict of path to MD5 or None
        What torchvision looks for, None where its class has no checksum.
    read : list of str
        The files that decide what the split holds, among them some that need not exist.
    sources : dict of path to (address, MD5 or None)
        What can be put there, archives among them, for torchvision to unpack with ``--download``.
    """

    files: dict[str, str | None] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    sources: dict[str, tuple[str, str | None]] = field(default_factory=dict)


def set_files(kind: Any, split: str | None) -> SetFiles:
    """What a class of torchvision.datasets says about its files; empty where it says nothing.

    Parameters
    ----------
    kind : class
    split : str or None
    """
    try:
        if hasattr(kind, "tgz_md5") and hasattr(kind, "train_list"):
            return _batches(kind, split)
        if isinstance(getattr(kind, "resources", None), list) and hasattr(kind, "mirrors"):
            return _idx(kind, split)
        if hasattr(kind, "split_list"):
            return _one_file(*kind.split_list[split])
        if hasattr(kind, "md5_checksum"):
            return _one_file(kind.url, kind.filename, kind.md5_checksum)
        return SetFiles(sources=dict(_addresses(kind)))
    except (AttributeError, KeyError, TypeError, ValueError):
        return SetFiles()  # another version of torchvision keeps its lists in another form


def _batches(kind: Any, split: str | None) -> SetFiles:
    """CIFAR-10, CIFAR-100 and STL-10: one archive with a folder of batches."""
    folder = kind.base_folder
    lists = {"train": kind.train_list, "test": kind.test_list}
    files = {f"{folder}/{name}": md5 for part in lists.values() for name, md5 in part}
    names = [name for name, _ in lists.get(str(split), kind.train_list)]
    if hasattr(kind, "meta"):
        files[f"{folder}/{kind.meta['filename']}"] = kind.meta["md5"]
        names.append(kind.meta["filename"])
    if hasattr(kind, "class_names_file"):
        names.append(kind.class_names_file)
    read = [f"{folder}/{name}" for name in names]
    return SetFiles(files, read, {kind.filename: (kind.url, kind.tgz_md5)})


def _idx(kind: Any, split: str | None) -> SetFiles:
    """MNIST and the sets in its form: four files, each packed on its own."""
    folder = f"{kind.__name__}/raw"
    names = [PurePosixPath(name).stem for name, _ in kind.resources]
    prefix = "train" if split == "train" else "t10k"
    legacy = [f"{kind.__name__}/processed/{name}" for name in (kind.training_file, kind.test_file)]
    return SetFiles(
        {f"{folder}/{name}": None for name in names},
        [f"{folder}/{name}" for name in names if name.startswith(prefix)] + legacy,
        {f"{folder}/{name}": (kind.mirrors[0] + name, md5) for name, md5 in kind.resources},
    )


def _one_file(url: str, name: str, md5: str) -> SetFiles:
    return SetFiles({name: md5}, [name], {name: (url, md5)})


def _addresses(kind: Any) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Archives of the sets that are folders of images."""
    pairs = list(getattr(kind, "_RESOURCES", []))
    if hasattr(kind, "_URL"):
        pairs.append((kind._URL, getattr(kind, "_MD5", None)))
    for pair in pairs:
        if len(pair) == 2 and "://" in pair[0]:
            yield PurePosixPath(pair[0]).name, (pair[0], pair[1])


def recorded_files(files: SetFiles, root: Path) -> dict[str, str | None] | None:
    """SHA-256 of each file that the split was read from, None for one that is not there.

    Returns
    -------
    dict or None
        None where it is not known which files those are.
    """
    if not files.read:
        return None
    return {name: _sha256(root / name) for name in files.read}


def still_there(recorded: Any, root: Path) -> bool:
    """Whether files are as `recorded_files` found them."""
    return (
        isinstance(recorded, dict)
        and bool(recorded)
        and all(_sha256(root / name) == sha256 for name, sha256 in recorded.items())
    )


def _sha256(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None


def explain(files: SetFiles, root: Path, asked_to_download: bool) -> str | None:
    """What is wrong with a set's files and what would mend it; None where nothing is seen.

    Parameters
    ----------
    files : SetFiles
    root : Path
        The folder of all sets.
    asked_to_download : bool
    """
    missing = [name for name in files.files if not (root / name).is_file()]
    for name, (address, md5) in files.sources.items():
        path = _find(root, name)
        what = _damage(path, md5) if path is not None and name not in files.files else None
        if what is not None:
            return (
                f"{printable(path)} is cut or corrupted ({what}): put a whole one there "
                f"({address}){'' if asked_to_download else _UNPACK}"
            )
    for name, md5 in files.files.items():
        what = None if name in missing else _damage(root / name, md5)
        if what is not None:
            return (
                f"{printable(root / name)} is cut or corrupted ({what}): "
                f"remove it and {_put(files, name, root, asked_to_download)}"
            )
    if not missing:
        return None
    if len(missing) < len(files.files):
        shown = listed([str(root / name) for name in missing], 3)
        are = "is" if len(missing) == 1 else "are"
        return f"{shown} {are} missing: {_put(files, missing[0], root, asked_to_download)}"
    if all((root / name).is_file() for name in files.sources):
        archives = listed([str(root / name) for name in files.sources], 2)
        return f"{archives} is there and not unpacked: add --download to have that done"
    fetch = "check the network" if asked_to_download else "let torchvision fetch it with --download"
    return f"none of its files is there: {fetch}, or {_put(files, None, root, asked_to_download)}"


_UNPACK = " and add --download to have it unpacked"


def _put(files: SetFiles, name: str | None, root: Path, downloading: bool) -> str:
    """Which file to put where, `name` being the one that is missing."""
    sources = files.sources
    chosen = [key for key in sources if name is not None and PurePosixPath(key).stem in name]
    chosen = chosen or list(sources)
    packed = [key for key in chosen if key not in files.files]
    if not downloading and packed and all((root / key).is_file() for key in chosen):
        archives = listed([str(root / key) for key in chosen], 2)
        return f"add --download to have {archives} unpacked again"
    places = [f"{sources[key][0]} to {printable(root / key)}" for key in chosen]
    return f"put {listed(places, 4)}{_UNPACK if packed and not downloading else ''}"


def _find(root: Path, name: str) -> Path | None:
    """An archive in the folder of all sets, or in a set's own."""
    for path in (root / name, *sorted(root.glob(f"*/{name}"))):
        if path.is_file():
            return path
    return None


def _damage(path: Path, md5: str | None) -> str | None:
    """How a file differs from what it should be, None where it does not or nobody knows."""
    try:
        size = path.stat().st_size
        if md5 is None:
            expected = _idx_size(path)
            return (
                f"{byte_count(size)}, its header says {byte_count(expected)}"
                if expected is not None and expected != size
                else None
            )
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        if found.hexdigest() != md5:
            return f"{byte_count(size)}, its MD5 is {found.hexdigest()[:8]}, expected {md5[:8]}"
        return None
    except OSError as error:
        return error.strerror or "it cannot be read"


def _idx_size(path: Path) -> int | None:
    """Bytes that a file of MNIST's form has by its own header; None for other files."""
    if not path.name.endswith("-ubyte"):
        return None
    with open(path, "rb") as file:
        start = file.read(16)
    dimensions = start[3] if len(start) > 3 else 3
    if start[:3] != b"\0\0\x08" or not 1 <= dimensions <= 3 or len(start) < 4 + 4 * dimensions:
        return 4 + 4 * dimensions
    shape = np.frombuffer(start, ">u4", dimensions, 4).astype(np.int64)
    return 4 + 4 * dimensions + int(shape.prod())
