"""What an analysis returns: tables, arrays, figures of the notebook, sentences, provenance.

A result is printed and turned into JSON here, the same way for every analysis. Folders of saved
results are in `saved`.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import saved
from frictionstore.analyses.core.claims import Claim, answer, compared, table
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.null_verdicts import beside
from frictionstore.analyses.core.rows import BLOCK, Column
from frictionstore.analyses.core.saved import RESULT_FILE, Identity, identity_of, plain
from frictionstore.analyses.core.saved_files import write_csv
from frictionstore.analyses.core.terminal import (
    MAX_ROWS,
    Columns,
    cells,
    number,
    terminal_width,
    text_table,
)
from frictionstore.io.durable import replacing, write_atomic
from frictionstore.text import printable, without_credentials

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from frictionstore.analyses.core.figures import On
    from frictionstore.analyses.core.source import MapStore

INLINE_ROWS = 2000
"""Tables up to this many rows are written into the JSON file too, longer ones only as CSV."""
INLINE_NUMBERS = 100_000
"""Arrays up to this many numbers are written into the JSON file, larger ones only as npz."""

_WIDTH = 100
"""Of prose, where the terminal is not narrower."""


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
        Name to a function that draws the figure; `plot` calls it, with `on=` for where.
    shown
        Names of the tables that are printed on a terminal.
    claims
        Headline figures and what is concluded from them, compared with repeats of the measurement
        where the store has any.
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
    figures: dict[str, Callable[..., Figure]] = field(default_factory=dict, repr=False)
    shown: tuple[str, ...] = ()
    claims: list[Claim] = field(default_factory=list)

    def compare(self, repeats: Sequence[Result], reliability: Mapping[str, float]) -> None:
        """Compare the claims with those of repeats of the measurement, and say what came of it.

        A sentence whose claims are not all reproducible is replaced by one that makes no other
        claims; the notebook's figures and its verdict stay.
        """
        if not self.claims:
            return
        self.claims = compared(self.claims, [one.claims for one in repeats], reliability)
        self.columns["repeats"] = table(self.claims)
        if self.shown:
            self.shown = (*self.shown, "repeats")
        said = answer(self.claims)
        if said is None:
            self.sentences.append(f"Reproducible under rounding (in {len(repeats)} repeats).")
            return
        verdict = self.notebook.get("verdict")
        self.sentences = [f"{said}{'' if verdict is None else f'; notebook verdict: {verdict}'}."]

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

        return pandas.DataFrame({key: column[:] if isinstance(column, Column) else column
                                 for key, column in self.columns[name].items()})  # fmt: skip

    @property
    def label(self) -> str:
        """Name of the folder that holds this result among others."""
        return saved.label(self.identity)

    @property
    def identity(self) -> Identity:
        """What tells results apart: another run of the same replaces, all others stay."""
        return identity_of(self.analysis, self.feature, self.parameters)

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
                tables[name] = by_row(columns)
            else:
                tables[name] = {"file": f"{name}.csv", "rows": rows, "columns": list(columns)}
        arrays: dict[str, Any] = {}
        for name, array in self.arrays.items():
            if inline or array.size <= INLINE_NUMBERS:
                arrays[name] = plain(array)
            else:
                arrays[name] = {"file": "arrays.npz", "shape": list(array.shape)}
        return {
            "analysis": self.analysis,
            "feature": self.feature,
            "question": self.question,
            "answer": self.sentence,
            "sentences": list(self.sentences),
            "caveats": list(self.caveats),
            "notebook": plain(self.notebook),
            "values": plain(self.values),
            "parameters": plain(self.parameters),
            "seed": self.seed,
            "tables": tables,
            "arrays": arrays,
            "claims": [plain(claim.as_dict()) for claim in self.claims],
            "provenance": plain(self.provenance),
        }

    def to_json(self, *, inline: bool = True) -> str:
        """Return the result as JSON that any strict parser reads."""
        return json.dumps(self.as_dict(inline=inline), allow_nan=False)

    def save(self, folder: str | os.PathLike[str], *, figures: bool = True) -> Path:
        """Write the result into a folder: JSON, a CSV file per table, arrays, figures.

        The folder appears complete or not at all. An earlier result of the same analysis and map
        at the same place is replaced, other files in it stay. Tables are also written as Parquet
        where pyarrow is installed.

        Raises
        ------
        AnalysisError
            If the folder exists and is neither empty nor such a result.
        """
        return saved.save(self, folder, figures=figures)

    def write(self, folder: Path, *, figures: bool = True) -> None:
        """Write the result's files into an existing empty folder."""
        for name, columns in self.columns.items():
            with replacing(folder / f"{name}.csv") as file:
                table = io.TextIOWrapper(file, "utf-8", newline="")
                write_csv(table, columns, _rows(columns))
                table.detach()
            if _has_pyarrow():
                self._frame(name).to_parquet(folder / f"{name}.parquet", index=False)
        if self.arrays:
            np.savez_compressed(folder / "arrays.npz", **self.arrays)  # type: ignore[arg-type]
        if figures and self.figures:
            from frictionstore.analyses.core.figures import save_figure

            for name, draw in self.figures.items():
                save_figure(draw(), folder / name)
        content = self.as_dict(inline=False)
        content["files"] = sorted([*(path.name for path in folder.iterdir()), RESULT_FILE])
        # Last, so that a folder with this file is complete even before it gets its name.
        write_atomic(folder / RESULT_FILE, json.dumps(content, allow_nan=False).encode())

    def plot(self, figure: str | None = None, ax: Any = None) -> Any:
        """Draw a figure of the result with matplotlib.

        Parameters
        ----------
        figure
            One of `figures`; by default the first.
        ax
            The axes to draw in, as many as the figure has panels; by default a new pyplot figure.

        Returns
        -------
        Axes, or an array of Axes
            `ax`, or those of the new figure.

        Raises
        ------
        AnalysisError
            The result has no such figure, or the axes are too few or too many.
        """
        name = next(iter(self.figures), None) if figure is None else figure
        if name is None or name not in self.figures:
            asked = "" if name is None else f" {printable(name, 60)!r}"
            raise AnalysisError(
                f"this result of {self.analysis} has no figure{asked}: it has "
                f"{', '.join(self.figures) or 'none'}"
            )
        from frictionstore.analyses.core.figures import draw_into

        return draw_into(self.figures[name], ax)

    def cite(self, style: str = "text") -> str:
        """What to quote so that others can make these figures again.

        Parameters
        ----------
        style : {"text", "bibtex"}

        Returns
        -------
        str
            Analysis, store and its digest, parameters, seed, command and versions.
        """
        from frictionstore.analyses.core.citation import cited

        what = f"{self.analysis} of {self.feature}" if self.feature else self.analysis
        seed = {} if self.seed is None else {"seed": self.seed}
        return cited(what, {**self.parameters, **seed}, self.provenance, style)

    def _repr_html_(self) -> str:
        return html(self)

    def __str__(self) -> str:
        return text(self)


def provenance(store: MapStore) -> dict[str, Any]:
    """Return what a result is of and what it was made with."""
    versions = {"python": platform.python_version()}
    for package in ("frictionstore", "numpy", "scipy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    selected = getattr(store, "selected_classes", None)
    return {
        **({} if selected is None else {"classes": list(selected)}),
        "store": store.name,
        "digest": store.digest,
        "fingerprint": store.fingerprint,
        "n_images": int(store.n_images),
        "grid": [int(n) for n in store.grid],
        "n_modes": int(store.n_modes),
        "versions": versions,
        "command": without_credentials(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def _has_pyarrow() -> bool:
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None


def drawn(kind: str, *args: Any, **options: Any) -> Callable[..., Figure]:
    """Return a function that draws with `figures`, imported only then: it takes half a second."""

    def draw(on: On = None) -> Figure:
        from frictionstore.analyses.core import figures

        made: Figure = getattr(figures, kind)(*args, on=on, **options)
        return made

    return draw


def by_row(columns: Columns) -> list[dict[str, Any]]:
    """Return a table's rows as JSON types, from its columns."""
    return [dict(zip(columns, row, strict=True)) for row in _rows(columns)]


def by_column(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return a table's columns from its rows, which name the same ones."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return columns


def _rows(columns: Columns) -> Iterator[tuple[Any, ...]]:
    """Yield a table's rows as JSON types, some of them made at a time."""
    for start in range(0, _length(columns), BLOCK):
        lists = [plain(values[start : start + BLOCK]) for values in columns.values()]
        yield from zip(*lists, strict=True)


def _length(columns: Mapping[str, Any]) -> int:
    return len(next(iter(columns.values()))) if columns else 0


def text(result: Result) -> str:
    """Return a result as text: the answer, its tables, the notebook's figures, caveats."""
    title = result.analysis + (f": {printable(result.feature)}" if result.feature else "")
    parts = [f"{title}\n{'=' * len(title)}"]
    parts.append("\n".join(_wrap(printable(sentence, 2000)) for sentence in result.sentences))
    for name in result.shown or tuple(result.columns)[:1]:
        if result.columns[name]:
            parts.append(text_table(result.columns[name], name=name))
    figures = _figures(result)
    if figures:
        parts.append(_wrap("notebook: " + "; ".join(figures), "  "))
    parts.extend(_wrap(f"note: {printable(caveat, 2000)}", "  ") for caveat in result.caveats)
    return "\n\n".join(parts)


def answers(results: Sequence[Result]) -> str:
    """Return one paragraph per result: its name and its sentences."""
    return "\n\n".join(
        _wrap(printable(f"{result.analysis}: {' '.join(result.sentences)}", 4000), "  ")
        for result in results
    )


def _figures(result: Result) -> list[str]:
    """Return the notebook's single figures as "name value", beside a verdict what noise has.

    None where a table has them beside the sounder figures.
    """
    if any("notebook" in columns for columns in result.columns.values()):
        return []
    return [
        f"{printable(name.replace('_', ' '))} {number(value)}{beside(result.analysis, name)}"
        for name, value in result.notebook.items()
        if not isinstance(value, (list, tuple, dict, np.ndarray))
    ]


def _wrap(line: str, indent: str = "") -> str:
    width = min(_WIDTH, terminal_width()) if sys.stdout.isatty() else _WIDTH
    return textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)


def html(result: Result) -> str:
    """Return a result as HTML, escaped, for a notebook."""
    title = escape(f"{result.analysis}: {printable(result.feature)}")
    parts = [f"<h4>{title}</h4>"]
    parts.extend(f"<p>{escape(printable(s, 2000))}</p>" for s in result.sentences)
    for name in result.shown or tuple(result.columns)[:1]:
        parts.append(_html_table(result.columns[name]))
    figures = _figures(result)
    if figures:
        parts.append(f"<p><small>notebook: {escape('; '.join(figures))}</small></p>")
    parts.extend(f"<p><small>{escape(printable(c, 2000))}</small></p>" for c in result.caveats)
    return "<div>" + "".join(parts) + "</div>"


def _html_table(columns: Columns) -> str:
    length = len(next(iter(columns.values()))) if columns else 0
    heads, _, rows = cells(columns, MAX_ROWS)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    more = f"<p><small>{length - MAX_ROWS} more rows</small></p>" if length > MAX_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
