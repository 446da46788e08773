"""Files of saved results, which may be a stranger's: read as results write them, or refused.

Here is what a file may be and hold. What results mean, and where they lie, is in `results`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.text import csv_line, listed, printable, unguarded

MOST_BYTES = 500_000_000  # of one file
LONGEST_NAME = 255  # bytes of a file's name, the most that file systems take
DEEPEST = 12  # lists and tables inside each other
SUFFIXES = frozenset({".json", ".csv", ".parquet", ".npz", ".svg", ".png"})  # that results write

_PROBABILITY = re.compile(r"(.*_)?[pq]|[pq]_.*")

Check = Callable[[Any, str], None]


# ---- files --------------------------------------------------------------------------------------


def is_plain(name: str) -> bool:
    """Return whether a name is that of a file in its folder, and of none elsewhere."""
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        return False
    try:
        return len(os.fsencode(name)) <= LONGEST_NAME
    except UnicodeEncodeError:
        return False


def read_regular(folder: Path, name: str) -> bytes:
    """Return the bytes of a regular file directly in `folder`; no link is followed.

    Raises
    ------
    OSError, ValueError
        It cannot be read, or is a link, a pipe, a device or too large.
    """
    if not is_plain(name):
        raise ValueError(f"{printable(name)!r} is no name of a file in this folder")
    path = folder / name
    if path.is_symlink():
        raise ValueError(f"{printable(name)} is a link, and results are read from their own folder")
    # Without blocking: a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{printable(name)} is no regular file")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"it has {status.st_size:,} bytes, more than {MOST_BYTES:,}")
        return file.read(MOST_BYTES)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Say in one sentence which file of saved results cannot be read, and why."""
    try:
        yield
    except (
        OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, EOFError,
        csv.Error, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise AnalysisError(
            f"the saved results in {printable(file)} cannot be read "
            f"({printable(why) or type(error).__name__}): delete that folder and run "
            "'frictionstore analyze all' again"
        ) from error


def load_json(data: bytes) -> Any:
    """Return JSON as results write it: UTF-8, finite numbers of 64 bits, not too deep."""
    content = json.loads(
        data.decode("utf-8"), parse_int=_whole, parse_float=_finite, parse_constant=_finite
    )
    _shallow(content)
    json.dumps(content, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    return content


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{printable(digits, 24)} does not fit in 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{printable(digits, 24)} is no finite number")
    return value


def _shallow(value: Any, level: int = 0) -> None:
    if level > DEEPEST:
        raise ValueError(f"lists in lists are more than {DEEPEST} levels deep")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, dict | list):
                _shallow(item, level + 1)


# ---- tables -------------------------------------------------------------------------------------


def write_csv(file: TextIO, header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Write a table as CSV with guarded cells, quoted where any spreadsheet could split them."""
    for row in chain((header,), rows):
        file.write((csv_line(row) or '""') + "\n")


def read_csv(text: Iterable[str]) -> Iterator[list[Any]]:
    """Give the rows of a CSV file that `write_csv` wrote, numbers as numbers, "" as None."""
    for row in csv.reader(text, strict=True):
        yield [_cell(cell) for cell in row]


def _cell(cell: str) -> Any:
    """Return a number if the cell is what Python writes for it: a class may be called 007."""
    for kind in (int, float):
        with suppress(ValueError):
            if str(value := kind(cell)) == cell and math.isfinite(value):
                return value
    return unguarded(cell) or None


# ---- results ------------------------------------------------------------------------------------


def _is(*kinds: type, words: str) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{where} is {printable(json.dumps(value), 40)}, not {words}")

    return check


def _each(item: Check) -> Check:
    def check(value: Any, where: str) -> None:
        _LIST(value, where)
        for k, one in enumerate(value):
            item(one, f"{where}[{k}]")

    return check


def _fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    def check(value: Any, where: str) -> None:
        _TABLE(value, where)
        for name in required.keys() - value.keys():
            raise ValueError(f"{where} has no {name}")
        for name, item in {**required, **(optional or {})}.items():
            if name in value:
                item(value[name], f"{where}.{name}")

    return check


def _or_none(item: Check) -> Check:
    return lambda value, where: None if value is None else item(value, where)


def _share(value: Any, where: str) -> None:
    _is(int, float, words="a number")(value, where)
    if not 0 <= value <= 1:
        raise ValueError(f"{where} is {value}, not between 0 and 1")


def _count(value: Any, where: str) -> None:
    _is(int, words="a whole number")(value, where)
    if value < 0:
        raise ValueError(f"{where} is {value}, less than 0")


def _file_name(value: Any, where: str) -> None:
    _TEXT(value, where)
    if not is_plain(value):
        raise ValueError(f"{where} is {printable(value, 40)!r}, no name of a file in this folder")


def _written(value: Any, where: str) -> None:
    _file_name(value, where)
    if Path(value).suffix not in SUFFIXES:
        raise ValueError(f"{where} is {printable(value, 40)}, which no result writes")


def _sentences(value: Any, where: str) -> None:
    _TEXTS(value, where)
    if not value:
        raise ValueError(f"{where} is empty")


def _figures(value: Any, where: str) -> None:
    """Check single figures by name, or figures of a name's own; what is a probability is one."""
    _TABLE(value, where)
    for name, item in value.items():
        place = f"{where}.{printable(name, 40)}"
        if isinstance(item, dict):
            _figures(item, place)
        elif _PROBABILITY.fullmatch(name):
            _or_none(_share)(item, place)


def _tables(value: Any, where: str) -> None:
    _TABLE(value, where)
    for name, rows in value.items():
        place = f"{where}.{printable(name, 40)}"
        _file_name(name, where)
        if isinstance(rows, dict):
            _fields({"file": _TEXT, "rows": _count, "columns": _TEXTS})(rows, place)
            if rows["file"] != f"{name}.csv":
                raise ValueError(f"{place} is in {printable(rows['file'], 40)}, not {name}.csv")
            continue
        _each(_TABLE)(rows, place)
        for k, row in enumerate(rows):
            if row.keys() != rows[0].keys():
                raise ValueError(f"{place}[{k}] has other columns than the first row")
            for column, cell in row.items():
                _SCALAR(cell, f"{place}[{k}].{printable(column, 40)}")


def _arrays(value: Any, where: str) -> None:
    _TABLE(value, where)
    for name, array in value.items():
        if isinstance(array, dict):
            of_file = _fields({"file": _TEXT, "shape": _each(_count)})
            of_file(array, f"{where}.{printable(name, 40)}")


_TEXT = _is(str, words="text")
_LIST = _is(list, words="a list")
_TABLE = _is(dict, words="names with values")
_SCALAR = _is(str, int, float, bool, type(None), words="one number or text")
_TEXTS = _each(_TEXT)
_SETS = _or_none(_TEXTS)

_RESULT = _fields(
    {
        "analysis": _TEXT, "feature": _TEXT, "question": _TEXT, "answer": _TEXT,
        "sentences": _sentences, "caveats": _TEXTS, "notebook": _TABLE, "values": _figures,
        "seed": _or_none(_count), "tables": _tables, "arrays": _arrays,
        "parameters": _fields({}, {
            "features": _SETS, "classes": _SETS, "protocol": _or_none(_TEXT), "alpha": _share,
            "permutations": _count, "lines": _each(_TEXTS),
            "left_out": _each(_fields({"analysis": _TEXT, "feature": _TEXT, "reason": _TEXT})),
        }),
        "provenance": _fields(
            {"digest": _TEXT, "store": _TEXT},
            {"versions": _TABLE, "command": _TEXT, "classes": _SETS},
        ),
    },
    {"files": _each(_written)},
)  # fmt: skip
_INDEX = _fields({"results": _each(_fields({"folder": _file_name}))})


def read_result(folder: Path, name: str) -> dict[str, Any]:
    """Return one saved result, checked to be of the shape that results have.

    Raises
    ------
    AnalysisError
        Saying which file, where in it, what is there and what should be.
    """
    return _read(folder, name, _RESULT)


def read_index(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the entries of an index of results; raises as `read_result`."""
    entries: list[dict[str, Any]] = _read(folder, name, _INDEX)["results"]
    linked = [one["folder"] for one in entries if (folder / one["folder"]).is_symlink()]
    with reading(folder / name):
        if linked:
            raise ValueError(f"{listed(linked)} is a link, and results lie in the folder itself")
    return entries


def _read(folder: Path, name: str, check: Check) -> dict[str, Any]:
    with reading(folder / name):
        content: dict[str, Any] = load_json(read_regular(folder, name))
        check(content, "it" if not isinstance(content, dict) else "the result")
    return content
