"""Which images of a data set belong together, as `--groups` says: by their ids or by a CSV file."""

from __future__ import annotations

from collections.abc import Callable

from frictionstore.errors import RequestError
from frictionstore.extract.given import expanded
from frictionstore.format.groups import read_groups
from frictionstore.text import did_you_mean, printable


def _stem(text: str) -> str:
    """The id without its ending, up to the last hyphen of the file's name; folders stay."""
    folder, slash, file = text.rpartition("/")
    name = file.rpartition(".")[0] or file
    # Where no hyphen is, or nothing before it, the image is a group by itself.
    return f"{folder}{slash}{name.rpartition('-')[0] or name}"


def _folder(text: str) -> str:
    """What stands before the last slash of an id; the id itself where there is none."""
    return text.rpartition("/")[0] or text


RULES: dict[str, Callable[[str], str]] = {"stem": _stem, "folder": _folder}
"""Groups from ids alone: the file's name up to its last hyphen, or the folder that it is in."""


class Grouping:
    """What `--groups` asked for, a rule or a CSV file.

    Attributes
    ----------
    described : str
        For the request: the rule's name, or the hash of the file.

    Raises
    ------
    RequestError
        It is no rule, and no CSV file that can be read.
    """

    def __init__(self, asked: str) -> None:
        self._rule = RULES.get(asked)
        self.described = asked
        if self._rule is not None:
            return
        path = expanded(asked)
        if not path.exists():
            raise RequestError(
                f"groups cannot be {printable(asked)!r}: say {' or '.join(RULES)}, or name a CSV "
                f"file with the columns id and group{did_you_mean(asked, RULES)}"
            )
        self._file = read_groups(path)
        self.described = f"csv, SHA-256 {self._file.sha256}"

    def of(self, ids: list[str], where: str) -> list[str]:
        """The group of each image.

        Raises
        ------
        RequestError
            The file does not name one of them.
        """
        if self._rule is not None:
            return [self._rule(text) for text in ids]
        return self._file.of(ids, where)
