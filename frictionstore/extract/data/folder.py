"""A folder of images."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import DatasetError
from frictionstore.extract.data.base import (
    REMOVE_OR_SKIP,
    ChangedError,
    DatasetOptions,
    content_hash,
    refuse,
)
from frictionstore.extract.given import read_whole
from frictionstore.format import schema
from frictionstore.progress import Report
from frictionstore.text import listed, printable

UNREADABLE = b""  # in place of a file's SHA-256


@dataclass
class _Found:
    """What a walk through a folder met; `shut` says of folders why they cannot be gone into."""

    images: list[Path] = field(default_factory=list)
    others: int = 0
    shut: dict[Path, str] = field(default_factory=dict)


class Folder:
    """Image files: one class per sub-folder, or flat and without labels.

    Attributes
    ----------
    left_out : list of str
        Folders that cannot be gone into, as ids that end in a slash; only where asked to skip.
    """

    in_memory = False
    value_range = (0.0, 1.0)

    def __init__(self, path: Path, options: DatasetOptions, report: Report) -> None:
        refuse(options, f"folder:{path}", "split", "count", "seed")
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise DatasetError(f"folder:{printable(path)} {what}: name a folder with images")
        self.path = path
        self.skip = options.skip_unreadable
        self.left_out: list[str] = []
        flat, classes = _class_folders(path)
        within = [_walk(folder) for folder in classes]
        self._leave_out([flat, *within])
        # a class that cannot be gone into is no class, one that is partly shut is
        pairs = [pair for pair in zip(classes, within, strict=True) if pair[0] not in pair[1].shut]
        if flat.images and any(found.images for _, found in pairs):
            raise DatasetError(
                f"folder:{printable(path)} has images both directly "
                f"({printable(flat.images[0].name)}, ...) and in sub-folders: use class "
                "sub-folders only, or none"
            )
        if not flat.images and not any(found.images for _, found in pairs):
            raise DatasetError(
                f"folder:{printable(path)} has no images: expected files like .png or .jpg, "
                "directly or in one sub-folder per class"
            )
        empty = [folder.name for folder, found in pairs if not found.images]
        if empty and not flat.images:
            raise DatasetError(
                f"folder:{printable(path)} has class folders without images "
                f"({listed(empty)}): remove them or add images"
            )
        ignored = flat.others + sum(found.others for found in within)
        if ignored:
            report(f"folder:{printable(path)}: {ignored:,} files that are not images were ignored")
        self.files = flat.images or [file for _, found in pairs for file in found.images]
        counts = [0 if flat.images else len(found.images) for _, found in pairs]
        self.class_names = [] if flat.images else [_as_text(folder.name) for folder, _ in pairs]
        self.labels = (
            np.full(len(flat.images), schema.NO_LABEL, np.int32)
            if flat.images
            else np.repeat(np.arange(len(pairs), dtype=np.int32), counts)
        )
        self.ids = [self._id(file) for file in self.files]
        self._digests: list[bytes] | None = None

    def _id(self, path: Path) -> str:
        return _as_text(path.relative_to(self.path).as_posix())

    def _leave_out(self, walks: list[_Found]) -> None:
        shut = {path: why for found in walks for path, why in found.shut.items()}
        for path, why in sorted(shut.items()):
            if path == self.path:
                raise DatasetError(f"folder:{printable(path)} {why}: make it readable")
            if not self.skip:
                raise DatasetError(
                    f"folder {printable(path)} {why}: mend that, or leave it out with "
                    "--skip-unreadable"
                )
            self.left_out.append(f"{self._id(path)}/")

    def describe(self) -> dict[str, Any]:
        from frictionstore.extract.data.decoding import LARGEST_FILE, rules_met

        def look(index: int) -> tuple[bytes, set[str]]:
            try:
                data = read_whole(self.files[index], LARGEST_FILE)
            except OSError as error:
                if self.skip:
                    return UNREADABLE, set()
                said = self._unreadable(index, error.strerror or error)
                raise DatasetError(f"{said}; {REMOVE_OR_SKIP}") from None
            return hashlib.sha256(data).digest(), rules_met(data)

        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            seen = list(pool.map(look, range(len(self.files))))
        self._digests = [digest for digest, _ in seen]
        parts = [name.encode() for name in self.class_names]
        for name, label, digest in zip(self.ids, self.labels, self._digests, strict=True):
            parts.append(f"{name}\0{label}\0{digest.hex()}".encode())
        parts += [name.encode() for name in self.left_out]
        rules = sorted(set().union(*(met for _, met in seen)))
        # named only where one was met: other folders' stores keep their identity
        named = {"decoding": rules} if rules else {}
        return {"name": "folder", "content_sha256": content_hash(parts), **named}

    def load(self, index: int, size: int, grey: bool = False) -> NDArray[np.float32]:
        from PIL import Image

        from frictionstore.extract.data.decoding import LARGEST_FILE, decoded, readers
        from frictionstore.extract.data.images import to_array

        hashed = None if self._digests is None else self._digests[index]
        try:
            data = read_whole(self.files[index], LARGEST_FILE)
        except OSError as error:
            if hashed:
                raise ChangedError(self.ids[index]) from None
            raise self._unreadable(index, error.strerror or error) from None
        if hashed is not None and hashlib.sha256(data).digest() != hashed:
            raise ChangedError(self.ids[index])
        try:
            return to_array(decoded(data), size, grey)
        except Image.UnidentifiedImageError:
            known = ", ".join(readers())
            raise self._unreadable(index, f"it is not a whole image of {known}") from None
        except Exception as error:  # Pillow's decoders raise whatever they meet
            raise self._unreadable(index, error) from None

    def _unreadable(self, index: int, why: object) -> DatasetError:
        reason = printable(why) or type(why).__name__
        return DatasetError(f"image {printable(self.ids[index])} cannot be read: {reason}")


def _as_text(name: str) -> str:
    """A file name as text, also where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _class_folders(path: Path) -> tuple[_Found, list[Path]]:
    """What lies in the folder itself, and its sub-folders, linked ones among them."""
    classes: list[Path] = []
    found = _Found()
    _list(path, found, classes, classes)
    return found, sorted(classes)


def _walk(folder: Path) -> _Found:
    """The images in a class's folder, however deep, sorted by path."""
    found = _Found()
    waiting = [folder]
    while waiting:
        linked: list[Path] = []
        _list(waiting.pop(), found, waiting, linked)
        for link in linked:  # may lead to where the walk has been, or out of the folder
            found.shut[link] = "is a link to a folder, and links are not followed inside a class"
    found.images.sort(key=lambda path: path.as_posix())
    return found


def _list(folder: Path, found: _Found, folders: list[Path], linked: list[Path]) -> None:
    """Sort what is in a folder; a link that leads nowhere counts as the file that it names."""
    from frictionstore.extract.data.decoding import endings

    known = endings()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = folder / entry.name
                if _is_folder(entry):
                    (linked if entry.is_symlink() else folders).append(path)
                elif path.suffix.lower() in known:
                    found.images.append(path)
                else:
                    found.others += 1
    except OSError as error:
        found.shut[folder] = f"cannot be read ({error.strerror})"
    found.images.sort(key=lambda path: path.as_posix())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to where one may not look
        return False
