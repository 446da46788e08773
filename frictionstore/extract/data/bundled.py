"""Data sets that need no file: digits, photos and noise."""

from __future__ import annotations

import gzip
import hashlib
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import DatasetError
from frictionstore.extract.data.base import DatasetOptions, content_hash, refuse
from frictionstore.extract.data.noise import KIND_NAMES, LIMIT, indexed_noise_image
from frictionstore.installed import install_command


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
        refuse(options, "digits", "split", "count", "seed")
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

        from frictionstore.extract.data.images import to_array

        return to_array(Image.fromarray(self.pixels[index]), size, grey)


class Photos:
    """Every whole 64 x 64 crop of scikit-learn's two sample photographs, row by row."""

    in_memory = True
    value_range = (0.0, 1.0)
    CROP = 64
    NAMES = ("china", "flower")

    def __init__(self, options: DatasetOptions) -> None:
        refuse(options, "photos", "split", "count", "seed")
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

        from frictionstore.extract.data.images import to_array

        return to_array(Image.fromarray(self.crops[index]), size, grey)


class Noise:
    """The sixteen kinds of noise the encoders are trained on, in turn; values in [-4, 4]."""

    in_memory = True
    value_range = (-LIMIT, LIMIT)
    DEFAULT_COUNT = 1600

    def __init__(self, options: DatasetOptions) -> None:
        refuse(options, "noise", "split")
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
        from frictionstore.extract.data.images import luma

        image = indexed_noise_image(index, size, self.seed)
        return luma(image) if grey else image
