"""The address of a file of a model repository on the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

from frictionstore.errors import CheckpointError
from frictionstore.text import printable

HUB_REPOSITORY = "AbstractPhil/geolip-SVAE"
HUB_FILE = "{version}/checkpoints/best.pt"
SCHEME = "hf://"
COMMIT = re.compile(r"[0-9a-f]{40}")
_VERSION = re.compile(r"v[0-9]+_[A-Za-z0-9_]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class AwayError(CheckpointError):
    """The Hub could not be asked: nothing is known about the file there.

    Attributes
    ----------
    reason : str
        Why, as a part of a sentence.
    """

    def __init__(self, file: HubFile, reason: str, copy: str = "it is not in the cache") -> None:
        super().__init__(f"encoder {printable(file.asked)} cannot be fetched: {copy}, and {reason}")
        self.reason = reason


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository.

    Attributes
    ----------
    asked : str
        What the user wrote, for messages.
    repository, path : str
    revision : str or None
        A branch, a tag or a commit; None is the main branch.
    """

    asked: str
    repository: str
    path: str
    revision: str | None

    @property
    def commit(self) -> str | None:
        """The revision where it is a commit: what lies there never changes."""
        return self.revision if self.revision and COMMIT.fullmatch(self.revision) else None

    @property
    def address(self) -> str:
        return f"{SCHEME}{self.repository}/{self.path}"

    def at(self, commit: str) -> str:
        """What to ask for to get the file as it was at a commit."""
        return f"{self.asked.rpartition('@')[0] or self.asked}@{commit}"

    def origin(self, commit: str) -> str:
        return f"hub:{self.repository}@{commit}/{self.path}"

    def commit_of(self, origin: object) -> str | None:
        """The commit in an origin that `origin` made for this file, None for any other text."""
        found = re.fullmatch(
            rf"hub:{re.escape(self.repository)}@([0-9a-f]{{40}})/{re.escape(self.path)}",
            str(origin),
        )
        return found[1] if found and self.commit in (None, found[1]) else None


def parse_hub_file(encoder: str) -> HubFile | None:
    """The file that an encoder's name stands for; None where it names none on the Hub.

    Parameters
    ----------
    encoder : str
        ``hf://OWNER/REPO/path/in/repo.pt`` or a published version's name, either with
        ``@REVISION`` at its end (or after REPO, as in a store's address).

    Raises
    ------
    CheckpointError
        It begins with ``hf://`` and does not name a file.
    """
    shown = printable(encoder)
    if not encoder.startswith(SCHEME):
        version, at, revision = encoder.partition("@")
        if not _VERSION.fullmatch(version):
            return None
        name = HUB_FILE.format(version=version)
        return HubFile(encoder, HUB_REPOSITORY, name, _revision(shown, at, revision))
    rest = encoder.removeprefix(SCHEME)
    owner, _, rest = rest.partition("/")
    repo, _, path = rest.partition("/")
    repo, at, revision = repo.partition("@")
    if not at:
        # a revision such as refs/pr/3 has slashes, so the last @ decides
        before, at, after = path.rpartition("@")
        path, revision = (before, after) if at else (path, "")
    parts = path.split("/")
    if not (_NAME.fullmatch(owner) and _NAME.fullmatch(repo)) or any(
        part in ("", ".", "..") for part in parts
    ):
        raise CheckpointError(
            f"encoder {shown} does not name a file on the Hub: expected "
            "hf://OWNER/REPO/path/in/repo.pt, with @REVISION at its end if one is meant"
        )
    asked = f"{SCHEME}{owner}/{repo}/{path}" + (f"@{revision}" if at else "")
    return HubFile(asked, f"{owner}/{repo}", path, _revision(shown, at, revision))


def _revision(shown: str, at: str, revision: str) -> str | None:
    if at and not revision:
        raise CheckpointError(f"encoder {shown} ends in @ and names no revision after it")
    if any(part in ("", ".", "..") for part in revision.split("/")) and revision:
        raise CheckpointError(
            f"encoder {shown} names no revision after @: expected a branch, a tag or a commit"
        )
    return revision or None
