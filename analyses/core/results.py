"""What an analysis returns: tables, arrays, figures of the notebook, sentences, provenance.

A result is printed, turned into JSON and saved here, the same way for every analysis.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.claims import Claim, answer, compared, table
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.terminal import (
    MAX_ROWS,
    Columns,
    cells,
    number,
    terminal_width,
    text_table,
)
from frictionstore.io.durable import write_atomic
from frictionstore.text import listed, printable

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from frictionstore.analyses.core.source import MapStore

RESULT_FILE = "result.json"
INDEX_FILE = "results.json"
LONGEST_LABEL = 80
"""Characters of a result's folder name, before the mark that keeps long ones apart."""
INLINE_ROWS = 2000
"""Tables up to this many rows are written into the JSON file too, longer ones only as CSV."""
INLINE_NUMBERS = 100_000
"""Arrays up to this many numbers are written into the JSON file, larger ones only as npz."""

_WIDTH = 100


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
    figures: dict[str, Callable[[], Figure]] = field(default_factory=dict, repr=False)
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

        return pandas.DataFrame(dict(self.columns[name]))

    @property
    def label(self) -> str:
        """Name of the folder that holds this result among others."""
        return label(self.identity)

    @property
    def identity(self) -> Identity:
        """What tells results apart: another run of the same replaces, all others stay."""
        return _identity(self.analysis, self.feature, self.parameters)

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
            "claims": [_plain(claim.as_dict()) for claim in self.claims],
            "provenance": _plain(self.provenance),
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
        folder = Path(folder).absolute()
        check_place(folder, self)
        with _writing(folder), _beside(folder) as new:
            self.write(new, figures=figures)
            _keep_others(folder, new)
            _put(new, folder)
        return folder

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
            from frictionstore.analyses.core.figures import save_figure

            for name, draw in self.figures.items():
                save_figure(draw(), folder / name)
        content = self.as_dict(inline=False)
        content["files"] = sorted([*(path.name for path in folder.iterdir()), RESULT_FILE])
        # Last, so that a folder with this file is complete even before it gets its name.
        (folder / RESULT_FILE).write_text(json.dumps(content, allow_nan=False), encoding="utf-8")

    def _repr_html_(self) -> str:

        return html(self)

    def __str__(self) -> str:

        return text(self)


Identity = tuple[Any, ...]


def _identity(analysis: str, feature: str, parameters: Mapping[str, Any]) -> Identity:
    sets = () if feature else tuple(parameters.get("features") or ())
    protocol = parameters.get("protocol")
    classes = parameters.get("classes")
    return (
        analysis,
        feature,
        sets,
        None if protocol == "default" else protocol,
        None if classes is None else tuple(classes),
    )


def identity(content: Mapping[str, Any]) -> Identity:
    """Return the identity of a result as `Result.as_dict` gives it."""
    return _identity(content["analysis"], content["feature"], content["parameters"])


def label(of: Identity) -> str:
    """Return a name for a file that no other identity has."""
    analysis, feature, sets, protocol, classes = of
    plain = [analysis, feature or "-".join(sets), protocol]
    plain += [] if classes is None else ["of", *classes]
    whole = "-".join(part for part in plain if part)
    name = "".join(c if c.isalnum() or c in "-_+" else "_" for c in whole)
    if name == whole and len(name) <= LONGEST_LABEL and classes is None:
        return name
    # What was cut or replaced, or where a dash in a class's name would be read as two classes.
    mark = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:8]
    return f"{name[:LONGEST_LABEL]}-{mark}"


def save_all(
    results: Sequence[Result],
    folder: str | os.PathLike[str],
    *,
    figures: bool = True,
) -> Path:
    """Write several results into one folder, a sub-folder each, and an index of their answers.

    What else lies in the folder stays: results of other analyses, maps and classes, a report, files
    of any kind. An earlier result of the same analysis and map is replaced.

    Raises
    ------
    AnalysisError
        If the folder holds no results and is not empty, or a sub-folder of a result's name is
        not that result.
    """
    folder = Path(folder).absolute()
    check_folder(folder)
    places = _places(folder, results)
    with _writing(folder), _beside(folder) as new:
        for result in results:
            (new / result.label).mkdir()
            result.write(new / result.label, figures=figures)
        if not folder.exists():
            _write_index(new, results, places, [])
            new.rename(folder)
            return folder
        for result in results:
            _keep_others(places[result.label], new / result.label)
        earlier = _read_index(folder)
        for result in results:
            _put(new / result.label, places[result.label])
        _write_index(folder, results, places, earlier)
        if (folder / RESULT_FILE).is_file():  # a result alone in the folder
            there = identity(_read_result(folder / RESULT_FILE))
            if any(result.identity == there for result in results):
                for name in _written(folder):
                    (folder / name).unlink(missing_ok=True)
    return folder


def earlier_results(folder: Path, results: Sequence[Result]) -> int:
    """Return how many results in `folder` these would replace."""
    if not folder.exists():
        return 0
    check_folder(folder)
    there = {identity(content) for _, content in _read_all(folder)}
    return len(there & {result.identity for result in results})


def _places(folder: Path, results: Sequence[Result]) -> dict[str, Path]:
    """Return the folder of each result by its label: where it already lies, or one of its name."""
    there = {
        identity(content): path
        for path, content in (_read_all(folder) if folder.exists() else [])
        if path != folder
    }
    places = {}
    for result in results:
        places[result.label] = there.get(result.identity, folder / result.label)
        check_place(places[result.label], result)
    return places


def _write_index(
    folder: Path,
    results: Sequence[Result],
    places: Mapping[str, Path],
    earlier: Sequence[Mapping[str, Any]],
) -> None:
    """Write the index: earlier results that were not made again, then these."""
    made = [
        {
            "folder": places[result.label].name,
            "analysis": result.analysis,
            "feature": result.feature,
            "answer": result.sentence,
        }
        for result in results
    ]
    names = {entry["folder"] for entry in made}
    kept = [entry for entry in earlier if entry["folder"] not in names]
    content = {"results": [*kept, *made], "provenance": _plain(results[0].provenance)}
    write_atomic(folder / INDEX_FILE, json.dumps(content, indent=1).encode())


def check_folder(folder: Path, digest: str | None = None) -> None:
    """Raise unless results, of the store with this digest, may be written to `folder`.

    Raises
    ------
    AnalysisError
        If it exists and is neither empty nor a folder of results, or these are of another store.
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
    if ours and digest is not None:
        of = [content["provenance"] for _, content in _read_all(folder)]
        found = next((one for one in of if one["digest"] != digest), None)
        if found is not None:
            raise AnalysisError(
                f"{name} holds results of a store with digest {printable(found['digest'])[:12]} "
                f"({printable(found['store'])}) and this one has {digest[:12]}: name another "
                "folder, or delete that one"
            )


def check_place(folder: Path, result: Result) -> None:
    """Raise unless `folder` is free or holds an earlier result of the same analysis and map.

    Raises
    ------
    AnalysisError
        Naming what is there.
    """
    if not folder.exists():
        return
    name = printable(folder)
    if not folder.is_dir():
        raise AnalysisError(f"{name} is a file: name another folder for the results")
    file = folder / RESULT_FILE
    if not file.is_file():
        if any(folder.iterdir()):
            raise AnalysisError(
                f"{name} holds files that are not results of an analysis: name another folder, "
                "or empty this one"
            )
        return
    there = identity(_read_result(file))
    if there != result.identity:
        raise AnalysisError(
            f"{name} holds {printable(label(there))} and this is {printable(result.label)}: name "
            "another folder for it"
        )


def _keep_others(place: Path, new: Path) -> None:
    """Copy what is not of the earlier result at `place` beside the new one."""
    if not place.exists():
        return
    written = _written(place)
    for path in sorted(place.iterdir()):
        if path.name in written:
            continue
        if (new / path.name).exists():
            raise AnalysisError(
                f"{printable(path)} is no file of the earlier result and the new one would have "
                "its name: move it, or name another folder"
            )
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def _put(new: Path, place: Path) -> None:
    """Move a complete result to its place, instead of what is there."""
    place = place.resolve()
    if not place.exists():
        new.rename(place)
        return
    old = new.with_name(f".{new.name}.old")
    try:
        place.rename(old)
        new.rename(place)
    finally:
        if not place.exists():
            old.rename(place)
    shutil.rmtree(old)


def _written(folder: Path) -> set[str]:
    """Return the names of the files of a saved result in its folder."""
    if not (folder / RESULT_FILE).is_file():
        return set()
    content = _read_result(folder / RESULT_FILE)
    if "files" in content:
        return {str(name) for name in content["files"]}
    # Results written before their files were listed; a figure is a pair of files.
    names = {RESULT_FILE, "arrays.npz"}
    names |= {f"{table}{end}" for table in content["tables"] for end in (".csv", ".parquet")}
    for path in folder.glob("*.svg"):
        if path.with_suffix(".png").is_file():
            names |= {path.name, path.with_suffix(".png").name}
    return names


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Give a new folder beside `folder`, which is gone afterwards."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    new.mkdir()
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say in words that results could not be written."""
    try:
        yield
    except OSError as error:
        raise AnalysisError(
            f"the results cannot be written to {printable(folder)}: "
            f"{error.strerror or error}; name a folder that can be written"
        ) from error


def read_saved(
    folder: str | os.PathLike[str],
    *,
    feature: str | None = None,
    classes: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Return saved results, as `Result.as_dict` gives them.

    Parameters
    ----------
    folder
        A folder of `save_all` or of `Result.save`, of any version.
    feature
        Only results about this map, and of several probes the latest that reads it.
    classes
        With `feature`: only results of these classes; None for those of all classes.

    Raises
    ------
    AnalysisError
        If the folder holds no results, or one of them cannot be read.
    """
    folder = Path(folder)
    contents = [content for _, content in read_folders(folder)]
    if feature is None:
        return contents
    wanted = None if classes is None else list(classes)
    kept = {
        content["analysis"]: content
        for content in contents
        if content["parameters"].get("classes") == wanted and is_about(content, feature)
    }
    if not kept:
        of = "" if wanted is None else f" of the classes {', '.join(wanted)} only"
        there = sorted({content["feature"] for content in contents} - {""})
        raise AnalysisError(
            f"{printable(folder)} holds no results about {printable(feature)}{printable(of)} "
            f"(there are results about {listed(there)}): make them with 'frictionstore analyze all "
            "STORE --feature NAME --out FOLDER'"
        )
    return list(kept.values())


def is_about(content: Mapping[str, Any], feature: str) -> bool:
    """Return whether a saved result is about a map; a probe is about every map that it reads."""
    if content["feature"]:
        return bool(content["feature"] == feature)
    sets = content["parameters"].get("features") or ()
    return not sets or feature in {part for name in sets for part in name.split("+")}


def read_folders(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the saved results of a folder, each with the folder of its files.

    Raises
    ------
    AnalysisError
        As `read_saved`.
    """
    found = _read_all(folder)
    if not found:
        raise AnalysisError(
            f"{printable(folder)} holds no saved results: make them with "
            "'frictionstore analyze all STORE --out FOLDER'"
        )
    return found


def _read_all(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the results of a folder, those whose folder was deleted left out."""
    names = [Path(entry["folder"]).name for entry in _read_index(folder)]
    places = [folder / name for name in names if (folder / name).is_dir()]
    if (folder / RESULT_FILE).is_file():
        places.insert(0, folder)
    return [(place, _read_result(place / RESULT_FILE)) for place in places]


def _read_index(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a folder's index, none where there is no index."""
    file = folder / INDEX_FILE
    if not file.is_file():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["results"]
        return [{**entry, "folder": str(entry["folder"])} for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, error) from error


def _read_result(file: Path) -> dict[str, Any]:
    """Return one saved result."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        identity(content)
        _ = content["provenance"]["digest"], content["provenance"]["store"], content["tables"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(file, error) from error
    return dict(content)


def _unreadable(file: Path, error: Exception) -> AnalysisError:
    return AnalysisError(
        f"the saved results in {printable(file)} cannot be read "
        f"({type(error).__name__}: {printable(error)}): delete that folder and run "
        "'frictionstore analyze all' again"
    )


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


"""Of prose, where the terminal is not narrower."""


def text(result: Result) -> str:
    """Return a result as text: the answer, its tables, the notebook's figures, caveats."""
    title = result.analysis + (f": {printable(result.feature)}" if result.feature else "")
    parts = [f"{title}\n{'=' * len(title)}"]
    parts.append("\n".join(_wrap(printable(sentence, 2000)) for sentence in result.sentences))
    for name in result.shown or tuple(result.columns)[:1]:
        if result.columns[name]:
            parts.append(text_table(result.columns[name], name=name))
    figures = _figures(result.notebook)
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


def _figures(figures: Mapping[str, Any]) -> list[str]:
    """Return the single figures of a mapping as "name value"."""
    return [
        f"{printable(name.replace('_', ' '))} {number(value)}"
        for name, value in figures.items()
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
    figures = _figures(result.notebook)
    if figures:
        parts.append(f"<p><small>notebook: {escape('; '.join(figures))}</small></p>")
    parts.extend(f"<p><small>{escape(printable(c, 2000))}</small></p>" for c in result.caveats)
    return "<div>" + "".join(parts) + "</div>"


def _html_table(columns: Columns, limit: int = MAX_ROWS) -> str:
    length = len(next(iter(columns.values()))) if columns else 0
    heads, _, rows = cells(columns, limit)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    more = f"<p><small>{length - limit} more rows</small></p>" if length > limit else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
