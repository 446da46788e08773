"""Saved results as the report reads them: text, tables and arrays, checked to be of one store."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore import Store
from frictionstore.analyses.core.saved_files import read_csv, read_regular, reading, write_csv
from frictionstore.analyses.report.methods import HEADINGS
from frictionstore.errors import RequestError
from frictionstore.text import listed, printable

COLUMNS = {  # that the report asks for by name
    ("summary", "summary"): (
        "line",
        "notebook",
        "measure",
        "value",
        "value_low",
        "value_high",
        "p",
    ),
    ("class-distance", "classes"): ("class",),
}
LARGEST = 1e100  # squares of it and their sums are finite
_HEADER = 1000  # bytes of an array's header in its file, or less


@dataclass(frozen=True)
class Saved:
    """One saved result and where its files are."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def analysis(self) -> str:
        return str(self.content["analysis"])

    @property
    def feature(self) -> str:
        return str(self.content["feature"])

    @property
    def key(self) -> str:
        """Name for links, another for every folder; only letters, digits, dashes, underscores."""
        name = self.folder.name
        return "".join(c if c.isalnum() or c == "-" else f"_{ord(c):x}" for c in name) or "here"

    @property
    def heading(self) -> str:
        heading = HEADINGS.get(self.analysis, self.analysis)
        # Several probes are told apart by the maps that they read.
        sets = [one for one in self.content["parameters"].get("features") or () if "+" not in one]
        of = self.feature or listed(sets)
        heading = f"{heading}: {of}" if of else heading
        protocol = self.content["parameters"].get("protocol")
        heading += "" if protocol in (None, "default") else f" ({protocol})"
        return heading if self.classes is None else f"{heading}, {listed(self.classes)} only"

    @property
    def classes(self) -> list[str] | None:
        """The classes that it is restricted to, None for all images."""
        classes: list[str] | None = self.content["parameters"].get("classes")
        return classes

    def beside(self, others: list[Saved]) -> list[Saved]:
        """Those of the others that are about the same map and images, and of folds."""
        from frictionstore.analyses.core.saved import in_folds, is_about

        return [
            one
            for one in others
            if one.classes == self.classes
            and is_about(one.content, self.feature)
            and in_folds(one.content)
        ]

    def array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
        """An array, which has to have a shape; None where the result has no such array."""
        held = self.content["arrays"].get(name)
        if held is None:
            return None
        in_file = isinstance(held, dict)
        with reading(self.folder / ("arrays.npz" if in_file else "result.json")):
            found = self._from_file(name, shape) if in_file else np.asarray(held, np.float64)
            if found.shape != shape or found.dtype.kind not in "fiub":
                what = f"{found.dtype} of shape {found.shape}"
                raise ValueError(f"array {name} is {what}, and this store's has shape {shape}")
            if (np.abs(found, dtype=np.float64) > LARGEST).any():
                raise ValueError(f"array {name} has a value beyond {LARGEST:g}")
            return np.asarray(found, np.float64)

    def _from_file(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        data = read_regular(self.folder, "arrays.npz")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = archive.getinfo(f"{name}.npy")
            # Before anything is unpacked: a small file may claim to hold gigabytes.
            if inside.file_size > 8 * math.prod(shape) + _HEADER:
                raise ValueError(f"array {name} has {inside.file_size:,} bytes, more than {shape}")
            content = io.BytesIO(archive.read(inside))
        found: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
        return found

    def table(self, name: str) -> tuple[list[dict[str, Any]], bytes]:
        """Rows of a table, and all of it as CSV."""
        rows = self.content["tables"].get(name)
        file = self.folder / ("result.json" if rows is None else f"{name}.csv")
        with reading(file):
            if rows is None:
                raise ValueError(f"there is no table {name}")
            if isinstance(rows, dict):
                rows = self._rows_from_file(file.name, rows)
            missing = [
                c for c in COLUMNS.get((self.analysis, name), ()) if rows and c not in rows[0]
            ]
            if missing:
                raise ValueError(f"table {name} has no column {listed(missing)}")
        # Written anew: a cell that was changed is guarded as ours are.
        text = io.StringIO(newline="")
        write_csv(text, rows[0] if rows else (), [row.values() for row in rows])
        return rows, text.getvalue().encode()

    def _rows_from_file(self, file: str, expected: Mapping[str, Any]) -> list[dict[str, Any]]:
        text = io.StringIO(read_regular(self.folder, file).decode("utf-8"), newline="")
        read = read_csv(text)
        columns = [str(name) for name in next(read, [])]
        rows = [dict(zip(columns, row, strict=True)) for row in read]
        if columns != expected["columns"] or len(rows) != expected["rows"]:
            raise ValueError(
                f"{file} has {len(rows):,} rows of {len(columns)} columns, not the "
                f"{expected['rows']:,} of {len(expected['columns'])} that result.json names"
            )
        return rows

    def drawings(self, but: Collection[tuple[str, str]] = ()) -> Iterator[tuple[str, bytes]]:
        """Name and SVG file of each figure; `but` names analyses and figures left out."""
        for path in sorted(self.folder.glob("*.svg")):
            if (self.analysis, path.stem) not in but:
                with reading(path):
                    data = read_regular(path.parent, path.name)
                yield path.stem, data


def holds_results(folder: Path) -> bool:
    """Whether a folder holds saved results."""
    from frictionstore.analyses.core.saved import INDEX_FILE, RESULT_FILE

    return any((folder / name).is_file() for name in (INDEX_FILE, RESULT_FILE))


def summarised(folder: Path) -> list[str]:
    """The maps whose results, of all images, are in a folder and closed by a summary."""
    from frictionstore.analyses.core.saved import read_saved

    if not holds_results(folder):
        return []
    return [
        str(one["feature"])
        for one in read_saved(folder)
        if one["analysis"] == "summary" and one["parameters"].get("classes") is None
    ]


def read_results(folder: Path, store: Store, features: Sequence[str] = ()) -> list[Saved]:
    """The results saved in a folder, checked to be of this store.

    Parameters
    ----------
    folder : Path
    store : Store
    features : sequence of str, optional
        Only results about these maps, of all images; none takes every result.

    Raises
    ------
    RequestError
        They are of another store.
    frictionstore.errors.FrictionstoreError
        The folder holds none, or they cannot be read.
    """
    from frictionstore.analyses.core.saved import is_about, read_folders

    saved = [Saved(place, content) for place, content in read_folders(folder)]
    if features:
        saved = [
            one
            for one in saved
            if one.classes is None and any(is_about(one.content, name) for name in features)
        ]
    for one in saved:
        digest = one.content["provenance"]["digest"]
        if digest != store.digest:
            raise RequestError(
                f"the results in {printable(folder)} are of a store with digest "
                f"{printable(digest)[:12]}, {printable(store.name)} has {store.digest[:12]}: "
                "analyse this store first, or name another folder with --results"
            )
    return saved
