"""Push a store to the Hugging Face Hub: commits of bounded size, the manifest in the last one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.header import Header, damaged
from frictionstore.format.schema import CARD
from frictionstore.io.local import LocalLocation
from frictionstore.io.regular import sha256_of
from frictionstore.io.remote import remote_module, split_hub
from frictionstore.progress import progress_bar
from frictionstore.text import printable

logger = logging.getLogger(__name__)

# The Hub's own advice: commits of 50 to 100 files, under 10,000 files in a folder.
COMMIT_FILES = 50
COMMIT_BYTES = 5 << 30
FOLDER_FILES = 10_000


def commits(header: Header, missing: list[str]) -> Iterator[list[str]]:
    """The files to send, in commits within the Hub's limits; metadata after the shards."""
    batch: list[str] = []
    size = 0
    for key in sorted(missing, key=lambda key: (key not in header.shard_bytes, key)):
        count = header.shard_bytes.get(key, 0)
        if batch and (len(batch) == COMMIT_FILES or size + count > COMMIT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += count
    if batch:
        yield batch


def push_to_hub(
    header: Header,
    rest: str,
    there: Header | None,
    card: bytes,
    *,
    beside: Mapping[str, bytes | str] | None = None,
    api: Any = None,
    show_progress: bool = False,
) -> tuple[int, int]:
    """Send a store; files and bytes sent.

    A repository that does not exist is made, as a private one. Files that the Hub already has
    with the same SHA-256 are not sent again, so an interrupted push goes on where it stopped.

    Parameters
    ----------
    header : Header
        Of a store in a folder of this machine.
    rest : str
        What follows ``hf://`` in the store's address.
    there : Header or None
        What is complete at the address now.
    card : bytes
    beside : mapping of path in the repository to bytes or the path of a file, optional
        What goes there with the store. Where the store itself is there already, only this goes.
    api : optional
        What to ask instead of a new `huggingface_hub.HfApi`.

    Raises
    ------
    RequestError
        The store is not a folder here, or the address does not name a repository.
    StoreError
        The Hub refuses.
    """
    hub = remote_module("huggingface_hub")
    if not isinstance(header.location, LocalLocation):
        raise RequestError(
            f"{printable(header.location.text)} is not a folder on this machine: pull or unpack "
            "it first, the Hub's own upload needs files"
        )
    units = -(-header.n_images // header.shard_images)
    if units >= FOLDER_FILES:
        raise RequestError(
            f"{printable(header.location.text)} has {units:,} shards in one folder, the Hub takes "
            f"fewer than {FOLDER_FILES:,}: extract it with more images per shard"
        )
    kind, name, revision, path = split_hub(rest)
    repo_type = {"datasets": "dataset", "spaces": "space", "models": "model"}[kind]
    api = hub.HfApi() if api is None else api
    asked = {"repo_id": name, "repo_type": repo_type, "revision": revision}
    there_now = _Place(api, asked, path, Path(path).name or name)
    extra: list[tuple[str, bytes | str]] = list((beside or {}).items())
    with _explained(rest):
        if there is not None and there.digest == header.digest:
            extra.append((there_now.at(CARD), card))
            there_now.commit(extra, [], f"What the viewer shows of {there_now.shown}")
            return len(extra), 0
        if not api.repo_exists(name, repo_type=repo_type):
            api.create_repo(name, repo_type=repo_type, private=True, exist_ok=True)
        moved = _send_files(header, there_now, there, show_progress)
        if path and CARD not in (beside or {}) and not there_now.has(CARD):
            # the Hub shows the card at the top of a repository; one that is there is left alone
            extra.append((CARD, card))
        extra.append((there_now.at(CARD), card))
        if (header.location.path / schema.PROVENANCE).is_file():
            provenance = str(header.location.path / schema.PROVENANCE)
            extra.append((there_now.at(schema.PROVENANCE), provenance))
        extra.append((there_now.at(schema.MANIFEST), header.listing))
        gone = sorted(there.manifest.keys() - header.manifest.keys()) if there is not None else []
        there_now.commit(
            extra,
            [there_now.at(key) for key in gone],
            f"{there_now.shown}: complete, digest {header.digest[:12]}",
        )
    return moved


@dataclass(frozen=True)
class _Place:
    """Where in which repository a store goes, and what asks the Hub."""

    api: Any
    asked: dict[str, Any]
    path: str
    shown: str

    def at(self, key: str) -> str:
        return f"{self.path}/{key}" if self.path else key

    def has(self, path: str) -> bool:
        return bool(self.api.get_paths_info(paths=[path], **self.asked))

    def commit(self, files: Iterable[tuple[str, bytes | str]], gone: list[str], said: str) -> None:
        """One commit: bytes or the path of a file for each that is sent, and what is removed."""
        hub = remote_module("huggingface_hub")
        operations: list[Any] = [
            hub.CommitOperationAdd(path_in_repo=to, path_or_fileobj=of) for to, of in files
        ]
        operations += [hub.CommitOperationDelete(path_in_repo=to) for to in gone]
        self.api.create_commit(operations=operations, commit_message=said, **self.asked)


def _send_files(
    header: Header, place: _Place, there: Header | None, show_progress: bool
) -> tuple[int, int]:
    """Every file of the manifest that the repository has not; files and bytes sent."""
    assert isinstance(header.location, LocalLocation)
    folder: Path = header.location.path
    present = _hashes(place.api, [place.at(key) for key in header.manifest], place.asked)
    missing = [key for key, sha in header.manifest.items() if present.get(place.at(key)) != sha]
    logger.info("%d of %d files are to be sent", len(missing), len(header.manifest))
    if there is not None or place.has(place.at(schema.MANIFEST)):
        # from here until the last commit, readers are told that the store is not complete
        place.commit([], [place.at(schema.MANIFEST)], f"Replace {place.shown}: begin")
    moved = 0
    total = sum(header.shard_bytes.get(key, 0) for key in missing)
    with progress_bar(total, "pushing", unit="bytes", show=show_progress) as advance:
        for batch in commits(header, missing):
            for key in batch:
                if sha256_of(folder, key) != header.manifest[key]:
                    raise damaged(header, key)
            logger.info("a commit of %d files", len(batch))
            files = [(place.at(key), str(folder / key)) for key in batch]
            place.commit(files, [], f"{len(batch)} files of {place.shown}")
            count = sum(header.shard_bytes.get(key, 0) for key in batch)
            moved += count
            advance(count)
    return len(missing), moved


@contextmanager
def _explained(rest: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        answered = f"the Hub answered {status}" if status is not None else type(error).__name__
        hint = ": check HF_TOKEN or run hf auth login" if status in (401, 403, 404) else ""
        raise StoreError(
            f"{printable(f'hf://{rest}')} cannot be written ({answered}){hint or ': run it again'}"
        ) from None


def _hashes(api: Any, paths: list[str], asked: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the large files the repository has; the Hub keeps none of small ones."""
    found = {}
    for first in range(0, len(paths), 100):
        for info in api.get_paths_info(paths=paths[first : first + 100], **asked):
            large = getattr(info, "lfs", None)
            if large is not None:
                found[info.path] = large.sha256
    return found
