"""What an analysis returns: tables, arrays, figures of the notebook, sentences, provenance.

A result is printed, turned into JSON and saved here, the same way for every analysis.
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analyses.errors import AnalysisError
from frictionstore.text import printable

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from analyses.source import MapStore

Columns = Mapping[str, Any]

RESULT_FILE = "result.json"
INDEX_FILE = "results.json"
INLINE_ROWS = 2000
"""Tables up to this many rows are written into the JSON file too, longer ones only as CSV."""
INLINE_NUMBERS = 100_000
"""Arrays up to this many numbers are written into the JSON file, larger ones only as npz."""


@dataclass
class Result:
    """The outcome of one analysis of one map.

    Attributes
    ----------
    analysis, feature
        The command's name and the map's, such as "f-statistic" and "friction".
    question
        What the analysis asks.
    columns
        Tables as columns, the first one the main one; `table` and `tables` give DataFrames.
    arrays
        Name to array; also attributes of the result, so that `result.f` is `result.arrays["f"]`.
    values
        Single figures by name.
    notebook
        Figures that the notebook printed, under its names.
    parameters, seed
        What was asked for; a run with the same ones gives the same numbers.
    sentences
        The answer, the first sentence on its own.
    caveats
        What a reader has to know before using the answer.
    provenance
        Digest and fingerprint of the store, package versions, command.
    figures
        Name to a function that draws the figure.
    shown
        Names of the tables that are printed on a terminal.
    """

    analysis: str
    feature: str
    question: str
    columns: dict[str, Columns]
    arrays: dict[str, NDArray[Any]]
    values: dict[str, Any]
    notebook: dict[str, Any]
    parameters: dict[str, Any]
    seed: int | None
    sentences: list[str]
    caveats: list[str]
    provenance: dict[str, Any]
    figures: dict[str, Callable[[], Figure]] = field(default_factory=dict, repr=False)
    shown: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        arrays = self.__dict__.get("arrays", {})
        if name in arrays:
            return arrays[name]
        raise AttributeError(
            f"this result has no array {name!r}: its arrays are {', '.join(arrays) or 'none'}"
        )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.arrays]

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        return self.sentences[0]

    @property
    def table(self) -> pandas.DataFrame:
        """The main table."""
        return self._frame(next(iter(self.columns)))

    @property
    def tables(self) -> dict[str, pandas.DataFrame]:
        """All tables by name."""
        return {name: self._frame(name) for name in self.columns}

    def _frame(self, name: str) -> pandas.DataFrame:
        import pandas

        return pandas.DataFrame(dict(self.columns[name]))

    @property
    def label(self) -> str:
        """Name of the folder that holds this result among others."""
        feature = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.feature)
        return f"{self.analysis}-{feature}" if feature else self.analysis

    def as_dict(self, *, inline: bool = True) -> dict[str, Any]:
        """Return everything as plain lists, numbers and strings; NaN and infinity become None.

        Parameters
        ----------
        inline
            False leaves long tables and large arrays as the names of the files that hold them.
        """
        tables: dict[str, Any] = {}
        for name, columns in self.columns.items():
            rows = _length(columns)
            if inline or rows <= INLINE_ROWS:
                plain = {key: _plain(values) for key, values in columns.items()}
                tables[name] = [
                    dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)
                ]
            else:
                tables[name] = {"file": f"{name}.csv", "rows": rows, "columns": list(columns)}
        arrays: dict[str, Any] = {}
        for name, array in self.arrays.items():
            if inline or array.size <= INLINE_NUMBERS:
                arrays[name] = _plain(array)
            else:
                arrays[name] = {"file": "arrays.npz", "shape": list(array.shape)}
        return {
            "analysis": self.analysis,
            "feature": self.feature,
            "question": self.question,
            "answer": self.sentence,
            "sentences": list(self.sentences),
            "caveats": list(self.caveats),
            "notebook": _plain(self.notebook),
            "values": _plain(self.values),
            "parameters": _plain(self.parameters),
            "seed": self.seed,
            "tables": tables,
            "arrays": arrays,
            "provenance": _plain(self.provenance),
        }

    def to_json(self, *, inline: bool = True) -> str:
        """Return the result as JSON that any strict parser reads."""
        return json.dumps(self.as_dict(inline=inline), allow_nan=False)

    def save(self, folder: str | os.PathLike[str], *, figures: bool = True) -> Path:
        """Write the result into a folder: JSON, a CSV file per table, arrays, figures.

        The folder appears complete or not at all; an earlier result at the same place is
        replaced. Tables are also written as Parquet where pyarrow is installed.

        Raises
        ------
        AnalysisError
            If the folder exists and is not an earlier result.
        """
        return replace_folder(Path(folder), lambda new: self.write(new, figures=figures))

    def write(self, folder: Path, *, figures: bool = True) -> None:
        """Write the result's files into an existing empty folder."""
        for name, columns in self.columns.items():
            with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(zip(*(_plain(c) for c in columns.values()), strict=True))
            if _has_pyarrow():
                self._frame(name).to_parquet(folder / f"{name}.parquet", index=False)
        if self.arrays:
            np.savez_compressed(folder / "arrays.npz", **self.arrays)  # type: ignore[arg-type]
        if figures and self.figures:
            from analyses.figures import save_figure

            for name, draw in self.figures.items():
                save_figure(draw(), folder / name)
        # Last, so that a folder with this file is complete even before it gets its name.
        (folder / RESULT_FILE).write_text(self.to_json(inline=False), encoding="utf-8")

    def _repr_html_(self) -> str:
        from analyses.terminal import html

        return html(self)

    def __str__(self) -> str:
        from analyses.terminal import text

        return text(self)


def save_all(
    results: Sequence[Result], folder: str | os.PathLike[str], *, figures: bool = True
) -> Path:
    """Write several results into one folder, a sub-folder each, and an index of their answers.

    Raises
    ------
    AnalysisError
        If the folder exists and does not hold earlier results.
    """

    def write(new: Path) -> None:
        index = []
        for result in results:
            (new / result.label).mkdir()
            result.write(new / result.label, figures=figures)
            index.append(
                {
                    "folder": result.label,
                    "analysis": result.analysis,
                    "feature": result.feature,
                    "answer": result.sentence,
                }
            )
        content = {"results": index, "provenance": _plain(results[0].provenance)}
        (new / INDEX_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")

    return replace_folder(Path(folder), write)


def check_folder(folder: Path) -> None:
    """Raise unless results may be written to `folder`.

    Raises
    ------
    AnalysisError
        If it exists and is neither empty nor an earlier result.
    """
    if not folder.exists():
        return
    name = printable(folder)
    if not folder.is_dir():
        raise AnalysisError(f"{name} is a file: name a folder for the results")
    ours = (folder / RESULT_FILE).is_file() or (folder / INDEX_FILE).is_file()
    if not ours and any(folder.iterdir()):
        raise AnalysisError(
            f"{name} holds files that are not results of an analysis: name another folder, "
            "or empty this one"
        )


def replace_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Write a folder beside its place and move it there when it is complete."""
    folder = folder.absolute()
    check_folder(folder)
    new = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.mkdir()
        write(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        raise AnalysisError(
            f"the results cannot be written to {printable(folder)}: "
            f"{error.strerror or error}; name a folder that can be written"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def read_saved(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the saved results in a folder of `save_all`, as `Result.as_dict` gives them.

    Raises
    ------
    AnalysisError
        If the folder holds no index of results, or a result in it cannot be read.
    """
    folder = Path(folder)
    index = folder / INDEX_FILE
    if not index.is_file():
        raise AnalysisError(
            f"{printable(folder)} holds no saved results: make them with "
            "'frictionstore analyze all STORE --out FOLDER'"
        )
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))["results"]
        names = [Path(entry["folder"]).name for entry in entries]
        return [
            json.loads((folder / name / RESULT_FILE).read_text(encoding="utf-8")) for name in names
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(
            f"the saved results in {printable(folder)} cannot be read "
            f"({type(error).__name__}: {printable(error)}): run 'frictionstore analyze all' again"
        ) from error


def provenance(store: MapStore) -> dict[str, Any]:
    """Return what a result is of and what it was made with."""
    versions = {"python": platform.python_version()}
    for package in ("frictionstore", "numpy", "scipy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "store": store.name,
        "digest": store.digest,
        "fingerprint": store.fingerprint,
        "n_images": int(store.n_images),
        "grid": [int(n) for n in store.grid],
        "n_modes": int(store.n_modes),
        "versions": versions,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _has_pyarrow() -> bool:
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None


def _length(columns: Mapping[str, Any]) -> int:
    return len(next(iter(columns.values()))) if columns else 0


def _plain(value: Any) -> Any:
    """Return `value` as JSON types; numbers that are not finite become None."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            listed = value.tolist()
            return listed if np.isfinite(value).all() else _plain(listed)
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
