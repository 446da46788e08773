"""Saved results as the report reads them: text, tables and arrays, checked to be of one store."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frictionstore.errors import RequestError
from frictionstore.report_methods import HEADINGS
from frictionstore.store import Store
from frictionstore.text import printable


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
        """Name for links; only letters, digits and dashes."""
        return "".join(c if c.isalnum() else "-" for c in self.folder.name) or "result"

    @property
    def heading(self) -> str:
        heading = HEADINGS.get(self.analysis, self.analysis)
        return f"{heading}: {self.feature}" if self.feature else heading

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


def read_results(folder: Path, store: Store) -> list[Saved]:
    """The results saved in a folder, checked to be of this store.

    Raises
    ------
    RequestError
        They are of another store.
    frictionstore.errors.FrictionstoreError
        The folder holds none, or they cannot be read.
    """
    from analyses.results import INDEX_FILE, read_saved

    contents = read_saved(folder)
    entries = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["results"]
    saved = [
        Saved(folder / Path(entry["folder"]).name, content)
        for entry, content in zip(entries, contents, strict=True)
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
