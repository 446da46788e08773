"""A stand-in for the Hub's API: keeps commits in a folder, laid out as the Hub's addresses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LARGE = 10_000  # bytes from which the Hub would keep a file as a large one


class RefusedError(Exception):
    """As the Hub's HTTP errors: what was answered is in `response`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"https://hub.invalid/?token=sesame answered {status}")
        self.response = SimpleNamespace(status_code=status)


@dataclass
class FakeHub:
    """The calls of `huggingface_hub.HfApi` that pushing uses.

    Attributes
    ----------
    root : Path
        Holds ``{kind}s/{repo}/resolve/{revision}/...`` as the addresses do.
    commits : list of (message, added paths, deleted paths)
    stop_after : int or None
        Fail the commit after so many, as a lost connection would.
    refuse : int or None
        Answer every call with this status.
    """

    root: Path
    commits: list[tuple[str, list[str], list[str]]] = field(default_factory=list)
    created: list[tuple[str, str, bool]] = field(default_factory=list)
    stop_after: int | None = None
    refuse: int | None = None

    def folder(self, repo_id: str, repo_type: str, revision: str = "main") -> Path:
        return self.root / f"{repo_type}s" / repo_id / "resolve" / revision

    def repo_exists(self, repo_id: str, *, repo_type: str) -> bool:
        if self.refuse is not None:
            raise RefusedError(self.refuse)
        return self.folder(repo_id, repo_type).is_dir()

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        self.created.append((repo_id, repo_type, private))
        self.folder(repo_id, repo_type).mkdir(parents=True, exist_ok=exist_ok)

    def get_paths_info(
        self, repo_id: str, paths: list[str], *, revision: str, repo_type: str
    ) -> list[Any]:
        found = []
        for path in paths:
            file = self.folder(repo_id, repo_type, revision) / path
            if file.is_file():
                data = file.read_bytes()
                large = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest())
                found.append(SimpleNamespace(path=path, lfs=large if len(data) >= LARGE else None))
        return found

    def create_commit(
        self,
        repo_id: str,
        operations: list[Any],
        *,
        commit_message: str,
        repo_type: str,
        revision: str,
    ) -> None:
        if self.stop_after is not None and len(self.commits) >= self.stop_after:
            raise ConnectionError("https://hub.invalid/?token=sesame went away")
        folder = self.folder(repo_id, repo_type, revision)
        added, deleted = [], []
        for operation in operations:
            path = folder / operation.path_in_repo
            if hasattr(operation, "path_or_fileobj"):
                data = operation.path_or_fileobj
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data if isinstance(data, bytes) else Path(data).read_bytes())
                added.append(operation.path_in_repo)
            else:
                path.unlink()
                deleted.append(operation.path_in_repo)
        self.commits.append((commit_message, added, deleted))
