"""Which texts can be ids of images: refused when they are written, not when they are read."""

from __future__ import annotations

from collections.abc import Iterable

from frictionstore.errors import RequestError
from frictionstore.format.frames import LONGEST_ID_BYTES
from frictionstore.text import printable


def check_ids(ids: Iterable[str]) -> None:
    """Ids differ, are not empty, and are text that every reader gives back as it was.

    Raises
    ------
    RequestError
        Names the first that is not.
    """
    seen: set[str] = set()
    for text in ids:
        shown = f"image_id {printable(text, 60)!r}"
        if not text:
            raise RequestError(f"image_id names image {len(seen)} '': an id must not be empty")
        if text in seen:
            raise RequestError(f"{shown} is there twice: ids must differ")
        check_id(text, shown)
        seen.add(text)


def check_id(text: str, shown: str) -> None:
    """One id, or the name of a group.

    Raises
    ------
    RequestError
        It is too long, or no text that every reader gives back as it was.
    """
    if "\0" in text:
        raise RequestError(f"{shown} holds a NUL, which readers drop: leave it out")
    check_text(text, shown)
    if len(text.encode()) > LONGEST_ID_BYTES:
        raise RequestError(f"{shown} has more than {LONGEST_ID_BYTES:,} bytes: shorten it")


def check_text(text: str, shown: str) -> None:
    """Text that UTF-8 can hold.

    Raises
    ------
    RequestError
        It has a part of a character (a lone surrogate), as names that are no UTF-8 are read.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{shown} is not Unicode text (a lone surrogate): rename it") from None
