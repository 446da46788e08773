"""Text that came from outside, made safe to print.

Class names, image ids and paths in a store are somebody else's data: on a terminal they must
not move the cursor, change colours or reverse the line. HTML has its own escaping.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: object, limit: int = 200) -> str:
    """`text` on one line with control, format and unassigned characters shown as escapes.

    Parameters
    ----------
    text : object
        Converted with `str` first.
    limit : int
        Longer text is cut and ends with an ellipsis.
    """
    shown = []
    for character in str(text)[: limit + 1]:
        if unicodedata.category(character) in _HIDDEN:
            shown.append(character.encode("unicode_escape", "surrogatepass").decode("ascii"))
        else:
            shown.append(character)
    if len(shown) > limit:
        shown[limit:] = ["…"]
    return "".join(shown)


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
