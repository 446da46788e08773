"""Folders of saved results: what may be written where, what stays, and how they are read back."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.rows import Column
from frictionstore.analyses.core.saved_files import read_index, read_result
from frictionstore.analyses.core.source import measured_map
from frictionstore.io.aside import (
    Seen,
    aside,
    copied,
    put_instead,
    remove_seen,
    seen,
    take_away,
)
from frictionstore.io.durable import write_atomic
from frictionstore.io.locate import refuse_inside_store
from frictionstore.text import listed, printable

RESULT_FILE = "result.json"
INDEX_FILE = "results.json"
RELIABILITY = "reliability"
"""The analysis that measures a map in all its forms at once."""
LONGEST_LABEL = 80
"""Characters of a result's folder name, before the mark that keeps long ones apart."""

Identity = tuple[Any, ...]


class Saveable(Protocol):
    """What is saved here: this much of `results.Result`."""

    analysis: str
    feature: str
    provenance: dict[str, Any]

    @property
    def sentence(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def identity(self) -> Identity: ...

    def to_json(self) -> str: ...

    def write(self, folder: Path, *, figures: bool = True) -> None: ...


def identity_of(analysis: str, feature: str, parameters: Mapping[str, Any]) -> Identity:
    """Return what tells results apart."""
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
    return identity_of(content["analysis"], content["feature"], content["parameters"])


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


def save(result: Saveable, folder: str | os.PathLike[str], *, figures: bool = True) -> Path:
    """Write one result into a folder, as `Result.save` says."""
    folder = Path(folder).absolute()
    with _writing(folder), aside(folder) as new:
        check_place(folder, result)
        result.write(new, figures=figures)
        put_instead(new, folder, _keep_others(folder, new))
    return folder


def save_all(
    results: Sequence[Saveable],
    folder: str | os.PathLike[str],
    *,
    figures: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write several results into one folder, a sub-folder each, and an index of their answers.

    What else lies in the folder stays: results of other analyses, maps and classes, a report, files
    of any kind. An earlier result of the same analysis and map is replaced; with `overwrite` all
    results of other stores are. The same result given twice is saved once; different ones of one
    analysis and map get a sub-folder each.

    Raises
    ------
    AnalysisError
        If the folder holds no results and is not empty, or a sub-folder of a result's name is
        not that result.
    """
    folder = Path(folder).absolute()
    with _writing(folder), aside(folder) as new:
        check_folder(folder)
        places = _places(folder, _different(results))
        for place, result in places.items():
            (new / place.name).mkdir()
            result.write(new / place.name, figures=figures)
        if not folder.exists():
            _write_index(new, places, [])
            put_instead(new, folder, {})
            return folder
        known = {place: _keep_others(place, new / place.name) for place in places}
        earlier = _read_index(folder)
        digest = results[0].provenance["digest"]
        others = {
            path: seen(path, _written(path))
            for path, of in (_read_all(folder) if overwrite else ())
            if of["provenance"]["digest"] != digest and path not in places
        }
        for place in places:
            put_instead(new / place.name, place, known[place])
        gone = {path.name for path in others}
        _write_index(folder, places, [one for one in earlier if one["folder"] not in gone])
        for path, there in others.items():
            take_away(path, there)
        if (folder / RESULT_FILE).is_file():  # a result alone in the folder
            alone = identity(_read_result(folder / RESULT_FILE))
            if any(result.identity == alone for result in results):
                remove_seen(folder, seen(folder, _written(folder)))
    return folder


def _different(results: Sequence[Saveable]) -> list[Saveable]:
    """Return the results without those that are given again: maps asked for at once share some."""
    kept: dict[Identity, list[Saveable]] = {}
    for result in results:
        alike = kept.setdefault(result.identity, [])
        if all(result is not one and result.to_json() != one.to_json() for one in alike):
            alike.append(result)
    return [result for alike in kept.values() for result in alike]


def earlier_results(folder: Path, results: Sequence[Saveable]) -> int:
    """Return how many results in `folder` these would replace."""
    if not folder.exists():
        return 0
    check_folder(folder)
    there = {identity(content) for _, content in _read_all(folder)}
    return len(there & {result.identity for result in results})


def _places(folder: Path, results: Sequence[Saveable]) -> dict[Path, Saveable]:
    """Return each result by its folder: where it already lies, or one of its name."""
    there: dict[Identity, list[Path]] = {}
    for path, content in _read_all(folder) if folder.exists() else []:
        if path != folder:
            there.setdefault(identity(content), []).append(path)
    taken = {path for paths in there.values() for path in paths}
    places: dict[Path, Saveable] = {}
    for result in results:
        earlier = sorted(there.get(result.identity, ()), key=lambda path: (len(path.name), path))
        free = (path for path in earlier if path not in places)
        place = next(free, folder / result.label)
        number = count(2)
        while place in places or (place in taken and place not in earlier):  # of another result
            place = folder / f"{result.label}-{next(number)}"
        check_place(place, result)
        places[place] = result
    return places


def _write_index(
    folder: Path, places: Mapping[Path, Saveable], earlier: Sequence[Mapping[str, Any]]
) -> None:
    """Write the index: earlier results that were not made again, then these."""
    made = [
        {
            "folder": place.name,
            "analysis": result.analysis,
            "feature": result.feature,
            "answer": result.sentence,
        }
        for place, result in places.items()
    ]
    names = {entry["folder"] for entry in made}
    kept = [entry for entry in earlier if entry["folder"] not in names]
    of = next(iter(places.values())).provenance
    content = {"results": [*kept, *made], "provenance": plain(of)}
    write_atomic(folder / INDEX_FILE, json.dumps(content, indent=1).encode())


def check_folder(folder: Path, digest: str | None = None) -> None:
    """Raise unless results, of the store with this digest, may be written to `folder`.

    Raises
    ------
    AnalysisError
        If it exists and is neither empty nor a folder of results, or these are of another store.
    """
    refuse_inside_store(folder)
    if not folder.exists():
        return
    name = printable(folder)
    if not folder.is_dir():
        raise AnalysisError(f"{name} is a file: name a folder for the results")
    ours = (folder / RESULT_FILE).is_file() or (folder / INDEX_FILE).is_file()
    if not ours:
        _refuse_others(folder)
    if ours and digest is not None:
        of = [content["provenance"] for _, content in _read_all(folder)]
        found = next((one for one in of if one["digest"] != digest), None)
        if found is not None:
            raise AnalysisError(
                f"{name} holds results of a store with digest {printable(found['digest'])[:12]} "
                f"({printable(found['store'])}) and this one has {digest[:12]}: replace them with "
                "'frictionstore analyze all STORE --out FOLDER --overwrite', or name another folder"
            )


def _refuse_others(folder: Path) -> None:
    if any(folder.iterdir()):
        raise AnalysisError(
            f"{printable(folder)} holds files that are not results of an analysis: name another "
            "folder, or empty this one"
        )


def check_place(folder: Path, result: Saveable) -> None:
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
    if not (folder / RESULT_FILE).is_file():
        _refuse_others(folder)
        return
    there = identity(_read_result(folder / RESULT_FILE))
    if there != result.identity:
        raise AnalysisError(
            f"{name} holds {printable(label(there))} and this is {printable(result.label)}: name "
            "another folder for it"
        )


def _keep_others(place: Path, new: Path) -> Seen:
    """Copy what is not of the earlier result at `place` beside the new one; say what is there."""
    if not place.exists():
        return {}
    known = seen(place, os.listdir(place))
    written = _written(place)
    for path in sorted(place.iterdir()):
        if path.name in written:
            continue
        if os.path.lexists(new / path.name):
            raise AnalysisError(
                f"{printable(path)} is no file of the earlier result and the new one would have "
                "its name: move it, or name another folder"
            )
        copied(path, new / path.name)
    return known


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
        Only results about this map, and of several probes the latest that reads it and was
        cross-validated.
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
        if content["parameters"].get("classes") == wanted
        and is_about(content, feature)
        and in_folds(content)
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


def in_folds(content: Mapping[str, Any]) -> bool:
    """Return whether a saved result is of no protocol of its own (the notebook's, two splits)."""
    return content["parameters"].get("protocol") in (None, "default")


def is_about(content: Mapping[str, Any], feature: str) -> bool:
    """Return whether a saved result is about a map.

    A probe is about every map that it reads, a map's reliability about all forms of that map.
    """
    if content["analysis"] == RELIABILITY:
        return bool(content["feature"] == measured_map(feature))
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
    names = [entry["folder"] for entry in _read_index(folder)]
    places = [folder / name for name in names if (folder / name).exists()]
    if (folder / RESULT_FILE).is_file():
        places.insert(0, folder)
    return [(place, _read_result(place / RESULT_FILE)) for place in places]


def _read_index(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a folder's index, none where there is no index."""
    return read_index(folder, INDEX_FILE) if (folder / INDEX_FILE).exists() else []


def _read_result(file: Path) -> dict[str, Any]:
    """Return one saved result."""
    return read_result(file.parent, file.name)


def plain(value: Any) -> Any:
    """Return `value` as JSON types; numbers that are not finite become None."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            listed = value.tolist()
            return listed if np.isfinite(value).all() else plain(listed)
        return value.tolist()
    if isinstance(value, Column):
        return plain(value[:])
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
