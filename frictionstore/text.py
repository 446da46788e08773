"""Text that came from outside, made safe to print, and the one place that prints.

Class names, image ids and paths in a store are somebody else's data: on a terminal they must
not move the cursor, change colours or reverse the line. Whoever puts foreign text into a sentence
makes it `printable`, so that it cannot pretend to be another line; what `show` prints has no
control character but its line breaks, whoever forgot. HTML has its own escaping.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO

from frictionstore.errors import OutputError

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# A user name in front of a host, or one with a password, which may hold a slash where the text
# after the colon is no port. A path has one slash left of two.
_CREDENTIALS = re.compile(
    r"(:/{1,2})(?:datasets/|spaces/)?(?:[^/\s]{0,2000}@|[^/\s:]{0,200}:(?!\d*(?:[/\s]|$))\S{0,2000}@)"
)

_MARK = "'"  # in front of text that a spreadsheet would compute, and of text that begins with it
_COMPUTED = frozenset("=+-@\t\r\n＝＋－＠" + _MARK)  # noqa: RUF001
_SPLIT = re.compile(r'[,;"\t\r\n]')


def without_credentials(text: str) -> str:
    """`text` with the user names and passwords of the addresses in it taken out."""
    return _CREDENTIALS.sub(r"\1***@", text) if "@" in text else text


def show(text: str, *, err: bool = False) -> None:
    """Print text and a line break; every other control or format character becomes an escape.

    Parameters
    ----------
    text : str
    err : bool
        On standard error. What cannot be written there is lost, and the work goes on.

    Raises
    ------
    OutputError
        Standard output cannot be written.
    """
    lines = without_credentials(text).split("\n")
    safe = "\n".join(line if line.isprintable() else _escaped(line) for line in lines)
    stream = sys.stderr if err else sys.stdout
    try:
        write(stream, safe + "\n")
    except (OSError, ValueError) as error:
        silence(stream)
        if not err:
            raise OutputError(error) from error


def write(stream: TextIO | None, text: str) -> None:
    """Write text now; what the stream's encoding has no character for becomes an escape."""
    if stream is None:
        raise OSError("it is closed")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def silence(stream: TextIO | None) -> None:
    """Send what a broken stream still holds nowhere, or Python complains when it ends."""
    with suppress(Exception):
        assert stream is not None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def printable(text: object, limit: int = 200) -> str:
    """`text` on one line with control, format and unassigned characters shown as escapes.

    User names and passwords in addresses are left out.

    Parameters
    ----------
    text : object
        Converted with `str` first.
    limit : int
        Longer text is cut and ends with an ellipsis.
    """
    whole = without_credentials(str(text))
    shown = _escaped(whole[:limit])
    return shown + "…" if len(whole) > limit else shown


def _escaped(text: str) -> str:
    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode("ascii")
        if unicodedata.category(character) in _HIDDEN
        else character
        for character in text
    )


def guarded(cell: object) -> object:
    """A cell of a CSV file, such that no spreadsheet takes text for a formula.

    Text that begins as a formula may, or with an apostrophe, gets an apostrophe in front, which
    `unguarded` takes away again; numbers stay as they are.
    """
    return _MARK + cell if isinstance(cell, str) and cell[:1] in _COMPUTED and cell else cell


def unguarded(cell: str) -> str:
    """The text that `guarded` wrote."""
    return cell.removeprefix(_MARK)


def csv_line(cells: Iterable[object]) -> str:
    """Guarded cells, quoted where any spreadsheet could split them, with commas between."""
    return ",".join([_quoted(cell) for cell in cells])


def _quoted(cell: object) -> str:
    text = "" if cell is None else str(guarded(cell))
    return '"' + text.replace('"', '""') + '"' if _SPLIT.search(text) else text


def listed(items: list[str] | tuple[str, ...], limit: int = 5) -> str:
    """The first `limit` items, comma-separated and printable, and how many more there are."""
    text = ", ".join(printable(item) for item in items[:limit])
    more = len(items) - limit
    return f"{text} and {more:,} more" if more > 0 else text


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a sentence that refuses `name`: `; did you mean 'friction'?`, or nothing.

    Parameters
    ----------
    name : object
        What was given; its case does not matter here.
    known : iterable of str
        What would have been taken.
    """
    from difflib import get_close_matches

    folded = {text.casefold(): text for text in known}
    close = get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean {printable(folded[close[0]], 60)!r}?" if close else ""


def byte_count(count: int) -> str:
    """A size for people: `1,023 B`, `7.4 MB`."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000.0
        if size < 999.5 or unit == "TB":
            break
    return f"{size:.3g} {unit}" if size < 100 else f"{size:,.0f} {unit}"
