"""Maps of somebody's own: not in the table of `schema`, declared in a store's request.

The request says of each all that the table says of the others (``own_maps``), so that it is part of
the fingerprint, and what an array's metadata must be follows from it as for all arrays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frictionstore.errors import RequestError
from frictionstore.format import schema
from frictionstore.text import printable

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
DIMS = (("image", "row", "col"), ("image", "row", "col", "mode"))
FILLS: dict[str, float] = {"float32": float("nan"), "uint8": 255}
LONGEST_UNIT, LONGEST_DESCRIPTION = 60, 1000
MOST = 64  # maps of one's own in a store
# What names mean elsewhere: in analyses, in an export, in a folder.
PREFIXES, SUFFIXES = ("log_", "rank_"), ("_exact", "_repeats")
TAKEN = frozenset(
    {"rounding_error", "erank", "ratio", "delta", "about", "class", "class_names", "split", "group"}
)


@dataclass(frozen=True)
class OwnMap:
    """What a map that is not in the format's table is.

    Attributes
    ----------
    description : str
        What it measures, on one line.
    dims : tuple of str
        ``("image", "row", "col")`` or, with modes, ``("image", "row", "col", "mode")``.
    dtype : {"float32", "uint8"}
        uint8 holds 0 to 254; 255 is what was never written.
    unit : str
        ``"1"`` for none.
    """

    description: str
    dims: tuple[str, ...] = DIMS[0]
    dtype: str = "float32"
    unit: str = "1"

    def as_json(self) -> dict[str, Any]:
        return {
            "description": self.description,
            "dims": list(self.dims),
            "dtype": self.dtype,
            "unit": self.unit,
        }


def own_spec(name: str, said: object) -> schema.MapSpec:
    """The table's row for a map of somebody's own, from what a request says of it.

    Raises
    ------
    RequestError
        The name or what is said of it is not of a map that a store can have.
    """
    shown = f"map {printable(name, 60)!r}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise RequestError(
            f"{shown} cannot be stored: a name is up to 64 small letters, digits and underscores, "
            "a letter first"
        )
    if name in schema.ARRAYS or name in TAKEN:
        raise RequestError(f"{shown} means something else already: choose another name")
    if name.startswith(PREFIXES) or name.endswith(SUFFIXES):
        raise RequestError(
            f"{shown} cannot be stored: names that begin with {' or '.join(PREFIXES)} or end in "
            f"{' or '.join(SUFFIXES)} say what was done to another map"
        )
    if not isinstance(said, Mapping) or set(said) != set(OwnMap("").as_json()):
        raise RequestError(f"{shown} must have a description, dims, dtype and unit, and no more")
    if not isinstance(said["dims"], list) or tuple(said["dims"]) not in DIMS:
        known = " or ".join(", ".join(dims) for dims in DIMS)
        raise RequestError(f"{shown} has dims {printable(said['dims'], 60)}: expected {known}")
    if not isinstance(said["dtype"], str) or said["dtype"] not in FILLS:
        raise RequestError(
            f"{shown} has dtype {printable(said['dtype'], 60)}: expected {' or '.join(FILLS)}"
        )
    for key, most in (("unit", LONGEST_UNIT), ("description", LONGEST_DESCRIPTION)):
        text = said[key]
        if not isinstance(text, str) or not text.strip() or printable(text, most) != text:
            raise RequestError(
                f"{shown} has the {key} {printable(text, 60)!r}: expected 1 to {most:,} printable "
                "characters on one line"
            )
    dtype = said["dtype"]
    return schema.MapSpec(
        name, tuple(said["dims"]), dtype, said["unit"], said["description"], FILLS[dtype]
    )


def own_maps(request: Mapping[str, Any]) -> dict[str, schema.MapSpec]:
    """The maps of somebody's own that a request declares, by name, in alphabetical order.

    Raises
    ------
    RequestError
        One cannot be stored, or there are too many.
    """
    said = request.get("own_maps", {})
    if not isinstance(said, Mapping) or len(said) > MOST or ("own_maps" in request and not said):
        raise RequestError(f"own_maps must declare 1 to {MOST} maps")
    return {name: own_spec(name, said[name]) for name in sorted(said)}


def map_specs(request: Mapping[str, Any]) -> dict[str, schema.MapSpec]:
    """All maps that a store of this request may have, in the order of its arrays."""
    return {**schema.MAPS, **own_maps(request)}


def format_of(request: Mapping[str, Any]) -> int:
    """The version of the format: `WITH_OWN_MAPS` where there are any, else the first."""
    return schema.WITH_OWN_MAPS if "own_maps" in request else schema.FORMAT
