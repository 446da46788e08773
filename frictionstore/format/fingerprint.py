"""Identity of what was asked for, and the difference between two such requests.

A request is plain JSON: everything that decides the content of a store and nothing else (no
path, date, host, batch size or number of workers). Its fingerprint is the SHA-256 of its
canonical form. How the store was made is provenance, not identity.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from frictionstore.io.local import LocalLocation
from frictionstore.text import printable

JSON = dict[str, Any]
ABSENT = "absent"


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys, no white space, and no NaN or infinity."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8", "surrogatepass")


def fingerprint(request: JSON) -> str:
    """Hex SHA-256 of the canonical JSON of `request`."""
    return hashlib.sha256(canonical_json(request)).hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def leaves(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted path and value of every leaf of nested mappings."""
    if isinstance(value, dict) and value:
        for key in sorted(value):
            yield from leaves(value[key], f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def as_json(value: object) -> Any:
    """`value` as JSON can hold it: what it cannot hold (a NaN, an object) becomes text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return repr(value)[:200]


def differences(there: JSON, asked: JSON) -> list[str]:
    """One phrase for every leaf that differs: `dataset.count is 100 there, 200 was asked for`."""
    return [
        f"{key} is {old} there, and was not asked for"
        if new == ABSENT
        else f"{key} is {old} there, {new} was asked for"
        for key, old, new in differing(there, asked)
    ]


def differing(a: JSON, b: JSON) -> Iterator[tuple[str, str, str]]:
    """Every leaf that differs: its path and both values, printable and short, or ``absent``."""
    sides = dict(leaves(a)), dict(leaves(b))
    for key in sorted(sides[0].keys() | sides[1].keys()):
        one, two = (canonical_json(side[key]) if key in side else b"" for side in sides)
        if one != two:
            left, right = (_short(side[key]) if key in side else ABSENT for side in sides)
            yield printable(key, 60), left, right


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else text[:18] + "…" + text[-18:]


def parse_json(data: bytes) -> Any:
    """Parse JSON as the standard has it.

    Raises
    ------
    ValueError
        It is not JSON, holds NaN, an infinity or a number beyond float64, or is nested too deeply.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond float64")
    return value


def read_json(folder: Path, key: str) -> Any:
    """Parse a plain file of a folder, see `parse_json`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    StoreError
        It is a link or no plain file, or too large.
    ValueError
        It is no JSON.
    """
    data = LocalLocation(folder).read(key)
    if data is None:
        raise FileNotFoundError(key)
    return parse_json(data)
