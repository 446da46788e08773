"""Fetching one file of a model repository on the Hugging Face Hub.

The file goes to huggingface_hub's cache and is compared with the checksum that the Hub gives
before it gets its name there, and again whenever it is used. Every fault of a network has its
sentence, within half a minute.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from frictionstore.errors import CheckpointError
from frictionstore.extract.encoder.hub_address import COMMIT, AwayError, HubFile
from frictionstore.extract.encoder.hub_answers import (
    answered,
    causes,
    explained,
    is_timeout,
    stranger,
)
from frictionstore.format.fingerprint import file_sha256
from frictionstore.installed import install_command
from frictionstore.io.durable import point_at, replacing, write_atomic
from frictionstore.progress import Report, progress_bar
from frictionstore.text import byte_count, printable

SECONDS = 9.0  # without a byte: one question and two tries to fetch stay under 30 s
FAULTS = 3  # a broken connection is one, silence is two
PROGRESS = 1 << 20  # bytes that a try must bring for the faults before it to be forgotten
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")

T = TypeVar("T")


@dataclass(frozen=True)
class _There:
    """What the Hub says about a file: the commit, a checksum, and bytes where it says how many."""

    commit: str
    checksum: str
    size: int | None


def fetch_hub_file(
    file: HubFile, report: Report = lambda text: None, *, show_progress: bool = False
) -> tuple[Path, str]:
    """A file of the Hub on this machine, fetched where needed, and the commit it is from.

    Parameters
    ----------
    file : HubFile
    report : callable
        Takes remarks for the user.
    show_progress : bool

    Raises
    ------
    AwayError
        The Hub cannot be asked, and the file is not in the cache.
    CheckpointError
        There is no such file, or what arrives is not what the Hub has.
    """
    if find_spec("huggingface_hub") is None:
        raise CheckpointError(
            f"fetching a published encoder needs huggingface_hub: {install_command('extract')}"
        )
    try:
        path = _cached(file, file.commit)
        if path and file.commit and _matches(path, path.resolve().name):
            return path, file.commit  # what lies at a commit never changes: nothing to ask
        try:
            there = _ask(file)
        except AwayError as error:
            return _from_cache(file, error, report)
        return _bring(file, there, report, show_progress), there.commit
    except OSError as error:
        what = printable(error.filename or "its folder")
        raise CheckpointError(
            f"encoder {printable(file.asked)} cannot be kept in the Hub's cache: {what}: "
            f"{error.strerror or printable(error)}"
        ) from error


def _ask(file: HubFile) -> _There:
    """What the Hub says about the file now."""
    import huggingface_hub as hub

    url = hub.hf_hub_url(file.repository, file.path, revision=file.revision)
    seconds = _seconds("HF_HUB_ETAG_TIMEOUT")
    try:
        found = _within(
            seconds + 1,
            lambda: hub.get_hf_file_metadata(url, token=hub.get_token(), timeout=seconds),
        )
    except Exception as error:  # the HTTP library, the network and huggingface_hub have their own
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a file of this machine
        raise explained(file, error, seconds) from error
    if not COMMIT.fullmatch(found.commit_hash or "") or not found.etag:
        raise AwayError(file, stranger())
    return _There(str(found.commit_hash), found.etag, found.size)


def _seconds(variable: str) -> float:
    """Seconds to wait for a byte; huggingface_hub's own variables count here too."""
    text = os.environ.get(variable, "")
    return float(text) if text.isdigit() and int(text) > 0 else SECONDS


def _within(seconds: float, question: Callable[[], T]) -> T:
    """The answer, or a `TimeoutError` after so many seconds.

    In a thread: looking up a name has no limit of its own, nor has an answer in small pieces.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(question())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]


class _DamagedError(Exception):
    """What arrived is not what the Hub has."""


class _BrokenError(Exception):
    """A transfer that stopped; `silent` if it was for want of an answer."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.silent = any(is_timeout(error) for error in causes(cause))


def _stream(
    file: HubFile, there: _There, start: int, seconds: float
) -> Iterator[tuple[int, bytes]]:
    """Pieces of the file, each with its place: from `start` where the server can, else from 0."""
    import huggingface_hub as hub

    url = hub.hf_hub_url(file.repository, file.path, revision=there.commit)

    def ask() -> Any:
        headers = hub.utils.build_hf_headers(token=hub.get_token())
        headers["Accept-Encoding"] = "identity"
        if start:
            headers["Range"] = f"bytes={start}-"
        client = hub.utils.get_session()
        request = client.build_request("GET", url, headers=headers, timeout=seconds)
        return client.send(request, stream=True, follow_redirects=True)

    try:
        response = _within(seconds + 1, ask)
    except Exception as error:  # of the HTTP library
        raise _BrokenError(error) from error
    try:
        if response.status_code >= 400:
            raise answered(file, response.status_code, response.headers)
        if "html" in response.headers.get("Content-Type", "") and not file.path.endswith("html"):
            raise AwayError(file, stranger())
        place = start if response.status_code == 206 else 0
        pieces = response.iter_bytes()
        while True:
            try:
                piece = next(pieces, None)
            except Exception as error:  # of the HTTP library
                raise _BrokenError(error) from error
            if piece is None:
                break
            yield place, piece
            place += len(piece)
    finally:
        with suppress(Exception):
            response.close()
    if there.size is not None and place < there.size:
        raise _BrokenError(ConnectionError("the answer ended early"))


def _download(file: HubFile, there: _There, out: BinaryIO, show_progress: bool) -> None:
    """Fetch a file; a transfer that breaks is taken up where it broke."""
    seconds = _seconds("HF_HUB_DOWNLOAD_TIMEOUT")
    label = f"fetching {printable(Path(file.path).name)}"
    total = there.size or 0
    faults, reached = 0, 0
    with progress_bar(total, label, unit="bytes", show=show_progress) as advance:
        while True:
            before = reached
            try:
                for place, piece in _stream(file, there, reached, seconds):
                    out.seek(place)
                    out.write(piece)
                    end = place + len(piece)
                    advance(max(end - reached, 0))
                    reached = max(end, reached)
                out.flush()
                return
            except _BrokenError as error:
                if reached - before >= PROGRESS:
                    faults = 0
                faults += 2 if error.silent else 1
                if faults >= FAULTS:
                    got = f"{byte_count(reached)} of {byte_count(total)}" if total else "it began"
                    after = f"the transfer broke off after {got}: " if reached else ""
                    reason = explained(file, error.cause, seconds).reason
                    raise AwayError(file, after + reason) from error
            time.sleep(1)


# ---- the cache, laid out as huggingface_hub does ------------------------------------------------


def _folder(file: HubFile) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "models--" + file.repository.replace("/", "--"))


def _cached(file: HubFile, commit: str | None) -> Path | None:
    """The cache's copy of the file at a commit."""
    path = _folder(file) / "snapshots" / (commit or "") / file.path
    return path if commit and path.is_file() else None


def _from_cache(file: HubFile, error: AwayError, report: Report) -> tuple[Path, str]:
    """The cache's copy, whole, where the Hub cannot be asked; refused where there is none."""
    commit = file.commit
    if commit is None:
        with suppress(OSError, ValueError):
            commit = (_folder(file) / "refs" / (file.revision or "main")).read_text().strip()
    path = _cached(file, commit)
    if path is None or commit is None:
        raise error
    checksum = path.resolve().name
    if _digest(path, checksum) not in (checksum, None):
        copy = f"the copy in the cache, {printable(path)}, is damaged"
        raise AwayError(file, error.reason, copy) from error
    if file.commit is None:
        report(
            f"encoder {printable(file.asked)} cannot be compared with the Hub's, for "
            f"{error.reason}; the copy in the cache is used, of commit {commit}"
        )
    return path, commit


def _bring(file: HubFile, there: _There, report: Report, show_progress: bool) -> Path:
    """The cache's copy of what the Hub has, fetched where it is missing or damaged."""
    folder = _folder(file)
    path = folder / "snapshots" / there.commit / file.path
    blob = folder / "blobs" / re.sub(r"[^A-Za-z0-9._-]", "_", there.checksum)
    name = printable(Path(file.path).name)
    tries = 2
    there_already = path.is_file()
    if there_already and not _matches(path, there.checksum):
        report(f"{printable(path)} is damaged ({_compared(path, there)}): it is fetched again")
        there_already, tries = False, 1
    if not there_already:
        path.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        while not (blob.is_file() and _matches(blob, there.checksum)):
            size = f", {byte_count(there.size)}" if there.size is not None else ""
            report(f"fetching {file.address} (commit {there.commit[:12]}{size})")
            with suppress(_DamagedError), replacing(blob) as out:
                _download(file, there, out, show_progress)
                arrived = Path(out.name)
                if _matches(arrived, there.checksum):
                    break
                what = _compared(arrived, there)
                raise _DamagedError
            tries -= 1
            if not tries:
                raise CheckpointError(
                    f"encoder {printable(file.asked)} cannot be fetched: {name} arrives damaged "
                    f"again and again ({what}): try another network, or give a file's path"
                )
            report(f"{name} arrived damaged ({what}): it is fetched once more")
        point_at(path, blob)
    if file.commit is None:
        reference = folder / "refs" / (file.revision or "main")
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(reference, there.commit.encode())
    return path


def _digest(path: Path, checksum: str) -> str | None:
    """The file's hash of the kind that `checksum` is, None if it is of no kind known."""
    if _SHA256.fullmatch(checksum):
        return file_sha256(path)
    if _GIT_SHA1.fullmatch(checksum):  # git's name for a file that is not a large one
        data = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return None


def _matches(path: Path, checksum: str) -> bool:
    """Whether the file has the checksum; a checksum of no known kind is met by every file."""
    return _digest(path, checksum) in (checksum, None)


def _compared(path: Path, there: _There) -> str:
    kind = "SHA-256" if _SHA256.fullmatch(there.checksum) else "git hash"
    found = _digest(path, there.checksum) or ""
    return f"its {kind} is {found[:12]}, the Hub's is {there.checksum[:12]}"
