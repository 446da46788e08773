"""Saved results as the report reads them: text, tables and arrays, checked to be of one store."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frictionstore import Store
from frictionstore.analyses.report.methods import HEADINGS
from frictionstore.errors import RequestError
from frictionstore.text import listed, printable


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
        return "".join(c if c.isalnum() or c == "-" else f"_{ord(c):x}" for c in self.folder.name)

    @property
    def heading(self) -> str:
        heading = HEADINGS.get(self.analysis, self.analysis)
        heading = f"{heading}: {self.feature}" if self.feature else heading
        return heading if self.classes is None else f"{heading}, {listed(self.classes)} only"

    @property
    def classes(self) -> list[str] | None:
        """The classes that it is restricted to, None for all images."""
        classes = self.content["parameters"].get("classes")
        return None if classes is None else [str(name) for name in classes]

    def beside(self, others: list[Saved]) -> list[Saved]:
        """Those of the others that are about the same map and images."""
        from frictionstore.analyses.core.saved import is_about

        return [
            one
            for one in others
            if one.classes == self.classes and is_about(one.content, self.feature)
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        path = self.folder / "arrays.npz"
        if not path.is_file():
            return {}
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found}

    def table(self, name: str) -> tuple[list[dict[str, Any]], int, bytes]:
        """Rows of a table, how many there are, and all of it as CSV."""
        path = self.folder / f"{Path(name).name}.csv"
        data = path.read_bytes()
        rows = self.content["tables"][name]
        if isinstance(rows, list):
            return rows, len(rows), data
        with path.open(newline="", encoding="utf-8") as file:
            read = [
                {key: _value(cell) for key, cell in row.items()} for row in csv.DictReader(file)
            ]
        return read, len(read), data


def _value(cell: str) -> Any:
    """A cell of a CSV file; what reads as a number is one."""
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if np.isfinite(number) else None


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
                f"the results in {printable(folder)} are of a store with digest {digest[:12]}, "
                f"{printable(store.name)} has {store.digest[:12]}: analyse this store first, or "
                "name another folder with --results"
            )
    return saved
