"""A folder of images."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.cores import cores
from frictionstore.errors import DatasetError
from frictionstore.extract.data.base import DatasetOptions, content_hash, refuse
from frictionstore.format import schema
from frictionstore.format.fingerprint import file_sha256
from frictionstore.io.base import TOKEN
from frictionstore.progress import Report
from frictionstore.store.place import is_store
from frictionstore.text import listed, printable


class Folder:
    """Image files: one class per sub-folder, or flat and without labels."""

    in_memory = False
    value_range = (0.0, 1.0)

    def __init__(self, path: Path, options: DatasetOptions, report: Report) -> None:
        refuse(options, f"folder:{path}", "split", "count", "seed")
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise DatasetError(f"folder:{printable(path)} {what}: name a folder with images")
        self.path = path
        endings = _image_endings()
        classes = sorted(
            p
            for p in path.iterdir()
            # a store that was extracted into the folder, whole or not, is no class
            if p.is_dir()
            and not p.name.startswith(".")
            and not (is_store(p) or (p / TOKEN).exists())
        )
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
        with ThreadPoolExecutor(cores(8)) as pool:
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

        from frictionstore.extract.data.images import to_array

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
