"""From a name to the place it means; the only one here that knows every kind."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from frictionstore.errors import StoreError
from frictionstore.io.base import Location
from frictionstore.io.local import LocalLocation
from frictionstore.text import printable

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def locate(location: str | os.PathLike[str]) -> Location:
    """The place that `location` names.

    Parameters
    ----------
    location : str or path
        A folder, a ``.zip`` file, or an address: ``http://``, ``https://``, ``s3://``,
        ``hf://``; the address of a zip file ends in ``.zip``.

    Raises
    ------
    StoreError
        There is nothing there, and the message says what is.
    """
    name = os.fspath(location)
    scheme = _SCHEME.match(name)
    if scheme:
        if scheme[1].lower() == "file":
            return _locate_local(Path(unquote(urlsplit(name).path)))
        from frictionstore.io.remote import locate_remote

        return locate_remote(name)
    return _locate_local(Path(name))


def _locate_local(path: Path) -> Location:
    shown = printable(path)
    try:
        if path.is_dir():
            return LocalLocation(path)
        if path.exists():
            if path.suffix == ".zip" and path.is_file():
                from frictionstore.io.zipped import ZipLocation

                real = path.resolve()  # the zip itself may be a link
                made = ZipLocation(LocalLocation(real.parent), real.name)
                made.text = str(path)
                return made
            raise StoreError(
                f"{shown} is a file, not a store: a store is a folder, or a .zip made by "
                "frictionstore pack"
            )
        unfinished = path.with_name(path.name + ".partial") if path.name else path
        if path.name and unfinished.is_dir():
            raise StoreError(
                f"{shown} is not complete yet (its unfinished part is in "
                f"{printable(unfinished)}): let what writes it end, or run it again"
            )
    except ValueError:  # a NUL in the name
        raise StoreError(f"{shown} cannot be a path: it holds a NUL character") from None
    except OSError as error:
        raise StoreError(f"{shown} cannot be read: {error.strerror}") from error
    raise StoreError(f"{shown} does not exist: name the folder of a store")


def refuse_inside_store(target: Path) -> None:
    """Nothing is written into a store but itself: with more in it, it is not what was written.

    Raises
    ------
    StoreError
        `target` lies in the folder of a store.
    """
    for folder in target.absolute().resolve().parents:
        if all((folder / name).is_file() for name in ("zarr.json", "MANIFEST.sha256")):
            raise StoreError(
                f"{printable(target)} lies inside the store {printable(folder)}, which is complete "
                "as it is: choose a place outside it"
            )
