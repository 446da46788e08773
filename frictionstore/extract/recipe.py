"""Named extraction jobs, bundled or in a file."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from frictionstore.errors import RequestError
from frictionstore.text import did_you_mean, printable

DEFAULT_RECIPE = "digits-speckle"
PRECISIONS = ("float32", "tf32", "bfloat16")
GRAMS = ("coordinated", "original")
LARGEST = 1 << 53  # of whole numbers


_TYPES: dict[str, type] = {
    "description": str, "dataset": str, "encoder": str, "out": str, "image_size": int,
    "maps": list, "repeats": int, "engine": str, "device": str, "precision": str, "gram": str,
    "split": str,
    "count": int, "seed": int,
    "limit": int, "data_root": str, "download": bool, "skip_unreadable": bool, "groups": str,
    "batch_size": int, "workers": int, "shard_images": int,
}  # fmt: skip


def _check_value(which: str, value: Any, kind: type, least: int) -> None:
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not fits or (kind is list and not all(isinstance(each, str) for each in value)):
        raise RequestError(
            f"{which} is {printable(repr(value))}, "
            f"expected {'a list of names' if kind is list else kind.__name__}"
        )
    if kind is int and value < least:
        raise RequestError(f"{which} is {value}, which is too small")
    if kind is int and value > LARGEST:
        raise RequestError(f"{which} is more than {LARGEST:,}")
    if kind in (str, list) and any("\0" in part for part in value):
        raise RequestError(f"{which} holds a NUL character")


def recipe_table() -> dict[str, dict[str, Any]]:
    """The bundled recipes by name."""
    folder = files(__package__) / "recipes"
    names = sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )
    return {name: read_recipe(name) for name in names}


def read_recipe(name: str) -> dict[str, Any]:
    """A bundled recipe by its name, or a recipe file by its path.

    Raises
    ------
    RequestError
        There is none, or it is not valid; the message says where.
    """
    path = Path(name)
    if name.endswith(".toml") or "/" in name:
        if not path.is_file():
            raise RequestError(f"there is no recipe file {printable(name)}")
        text = path.read_bytes()
    else:
        bundled = files(__package__) / "recipes" / f"{name}.toml"
        if not bundled.is_file():
            known = sorted(
                entry.name.removesuffix(".toml")
                for entry in (files(__package__) / "recipes").iterdir()
                if entry.name.endswith(".toml")
            )
            raise RequestError(
                f"there is no recipe {printable(name)!r}: the recipes are {', '.join(known)}"
                + did_you_mean(name, known)
            )
        text = bundled.read_bytes()
    try:
        recipe = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"recipe {printable(name)} is not valid TOML: {error}") from error
    for key, value in recipe.items():
        kind = _TYPES.get(key)
        if kind is None:
            raise RequestError(
                f"recipe {printable(name)} has an unknown key {printable(key)!r}: "
                f"the keys are {', '.join(_TYPES)}{did_you_mean(key, _TYPES)}"
            )
        least = 0 if key in ("seed", "workers", "repeats") else 1
        _check_value(f"recipe {printable(name)}: {key}", value, kind, least)
    for key, choices in (
        ("engine", ("native", "geolip")),
        ("precision", PRECISIONS),
        ("gram", GRAMS),
    ):
        if recipe.get(key, choices[0]) not in choices:
            raise RequestError(
                f"recipe {printable(name)}: {key} must be {' or '.join(choices)}"
                + did_you_mean(recipe[key], choices)
            )
    recipe.setdefault("out", f"data/{path.stem if name.endswith('.toml') else name}.zarr")
    return recipe
