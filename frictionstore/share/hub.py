"""Push a store to the Hugging Face Hub: commits of bounded size, the manifest in the last one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

    def at(key: str) -> str:
        return f"{path}/{key}" if path else key

    def commit(operations: list[Any], message: str) -> None:
        api.create_commit(operations=operations, commit_message=message, **asked)

    folder: Path = header.location.path
    extra = [
        hub.CommitOperationAdd(path_in_repo=to, path_or_fileobj=of)
        for to, of in (beside or {}).items()
    ]
    with _explained(rest):
        if there is not None and there.digest == header.digest:
            extra.append(hub.CommitOperationAdd(path_in_repo=at(CARD), path_or_fileobj=card))
            commit(extra, f"What the viewer shows of {Path(path).name or name}")
            return len(extra), 0
        if not api.repo_exists(name, repo_type=repo_type):
            api.create_repo(name, repo_type=repo_type, private=True, exist_ok=True)
        present = _hashes(api, [at(key) for key in header.manifest], asked)
        missing = [key for key, sha in header.manifest.items() if present.get(at(key)) != sha]
        logger.info("%d of %d files are to be sent", len(missing), len(header.manifest))
        if there is not None or _exists(api, at(schema.MANIFEST), asked):
            # from here until the last commit, readers are told that the store is not complete
            begin = hub.CommitOperationDelete(path_in_repo=at(schema.MANIFEST))
            commit([begin], f"Replace {Path(path).name or name}: begin")
        moved = 0
        total = sum(header.shard_bytes.get(key, 0) for key in missing)
        with progress_bar(total, "pushing", unit="bytes", show=show_progress) as advance:
            for batch in commits(header, missing):
                for key in batch:
                    if sha256_of(folder, key) != header.manifest[key]:
                        raise damaged(header, key)
                logger.info("a commit of %d files", len(batch))
                commit(
                    [
                        hub.CommitOperationAdd(
                            path_in_repo=at(key), path_or_fileobj=str(folder / key)
                        )
                        for key in batch
                    ],
                    f"{len(batch)} files of {Path(path).name or name}",
                )
                count = sum(header.shard_bytes.get(key, 0) for key in batch)
                moved += count
                advance(count)
        last: list[tuple[str, bytes | str]] = [(at(CARD), card)]
        if path and CARD not in (beside or {}) and not _exists(api, CARD, asked):
            # the Hub shows the card at the top of a repository; one that is there is left alone
            last.append((CARD, card))
        if (folder / schema.PROVENANCE).is_file():
            last.append((at(schema.PROVENANCE), str(folder / schema.PROVENANCE)))
        last.append((at(schema.MANIFEST), header.listing))
        gone = sorted(there.manifest.keys() - header.manifest.keys()) if there is not None else []
        commit(
            [
                *extra,
                *(hub.CommitOperationAdd(path_in_repo=to, path_or_fileobj=of) for to, of in last),
                *(hub.CommitOperationDelete(path_in_repo=at(key)) for key in gone),
            ],
            f"{Path(path).name or name}: complete, digest {header.digest[:12]}",
        )
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


def _exists(api: Any, path: str, asked: dict[str, Any]) -> bool:
    return bool(api.get_paths_info(paths=[path], **asked))


def _hashes(api: Any, paths: list[str], asked: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the large files the repository has; the Hub keeps none of small ones."""
    found = {}
    for first in range(0, len(paths), 100):
        for info in api.get_paths_info(paths=paths[first : first + 100], **asked):
            large = getattr(info, "lfs", None)
            if large is not None:
                found[info.path] = large.sha256
    return found
