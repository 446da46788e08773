"""Which images belong together: groups as texts, as numbers, and in a CSV file.

Images of one group (crops of a photograph, several of one subject) are not independent of each
other. What follows from that is for the analyses to say.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import RequestError
from frictionstore.format.ids import check_id
from frictionstore.text import listed, printable

COLUMNS = ("id", "group")
LARGEST_FILE = 256 << 20  # bytes


@dataclass(frozen=True)
class GroupFile:
    """A CSV file that gives ids of images their group.

    Attributes
    ----------
    name : str
        What the file is called in messages.
    groups : dict of id to group
    sha256 : str
        Of the file's bytes.
    """

    name: str
    groups: Mapping[str, str]
    sha256: str

    def of(self, ids: Iterable[str], where: str) -> list[str]:
        """The group of each id.

        Raises
        ------
        RequestError
            The file does not name one of them.
        """
        wanted = list(ids)
        missing = [text for text in wanted if text not in self.groups]
        if missing:
            raise RequestError(
                f"{self.name} gives no group for {len(missing):,} of {len(wanted):,} images of "
                f"{printable(where)} ({listed(missing, 3)}): add a line id,group for each"
            )
        return [self.groups[text] for text in wanted]


def read_groups(path: str | os.PathLike[str]) -> GroupFile:
    """Read a CSV file with the columns id and group; others are not looked at.

    Raises
    ------
    RequestError
        It cannot be read, lacks a column or has it twice, names an id twice, leaves a group empty,
        or has a line of more values than columns.
    """
    name = printable(os.fspath(path))
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST_FILE:
            raise RequestError(
                f"groups cannot be read from {name}: it is no file of at most "
                f"{LARGEST_FILE >> 20} MiB"
            )
        data = Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"groups cannot be read from {name}: {error.strerror}") from None
    groups: dict[str, str] = {}
    try:
        lines = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        there = lines.fieldnames or []
        if not set(COLUMNS) <= set(there):
            raise RequestError(
                f"{name} has the columns {listed([str(one) for one in there], 6) or 'of nothing'}: "
                "its first line must name id and group"
            )
        for column in COLUMNS:
            if there.count(column) > 1:
                raise RequestError(f"{name} has {there.count(column)} columns {column}: keep one")
        for row in lines:
            text, group = row["id"], row["group"]
            where = f"{name}, line {lines.line_num}"
            if None in row:
                raise RequestError(
                    f"{where} has more values than there are columns: put what holds a comma in "
                    "quotes"
                )
            if not text or not group:
                raise RequestError(f"{where} has no {'group' if text else 'id'}: give both")
            if text in groups:
                raise RequestError(f"{where} names the id {printable(text, 60)!r} again")
            check_id(group, f"{where}: group {printable(group, 60)!r}")
            groups[text] = group
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{name} is not a CSV file of UTF-8 text: {error}") from None
    return GroupFile(name, groups, hashlib.sha256(data).hexdigest())


def numbered(groups: Sequence[str]) -> tuple[NDArray[np.int32], list[str]]:
    """Each image's group as a position in the names, which are in order of appearance."""
    names = list(dict.fromkeys(groups))
    position = {name: number for number, name in enumerate(names)}
    return np.array([position[name] for name in groups], np.int32), names
