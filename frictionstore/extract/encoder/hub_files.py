"""One file of a model repository on the Hugging Face Hub: its address, and fetching it.

The file goes to huggingface_hub's cache and is compared with the checksum that the Hub gives
before it gets its name there, and again whenever it is used. Every fault of a network has its
sentence, within half a minute.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from frictionstore.errors import CheckpointError
from frictionstore.format.fingerprint import file_sha256
from frictionstore.installed import install_command
from frictionstore.progress import Report, progress_bar
from frictionstore.text import byte_count, printable

HUB_REPOSITORY = "AbstractPhil/geolip-SVAE"
HUB_FILE = "{version}/checkpoints/best.pt"
SCHEME = "hf://"
COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS = 9.0  # without a byte: one question and two tries to fetch stay under 30 s
FAULTS = 3  # a broken connection is one, silence is two
PROGRESS = 1 << 20  # bytes that a try must bring for the faults before it to be forgotten
_VERSION = re.compile(r"v[0-9]+_[A-Za-z0-9_]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")

T = TypeVar("T")


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


# ---- fetching -----------------------------------------------------------------------------------


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
    """What the Hub says about the file now.

    Raises
    ------
    AwayError, CheckpointError
    """
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
        raise _explained(file, error, seconds) from error
    if not COMMIT.fullmatch(found.commit_hash or "") or not found.etag:
        raise AwayError(file, _stranger())
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


class _BrokenError(Exception):
    """A transfer that stopped; `silent` if it was for want of an answer."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.silent = any(_is_timeout(error) for error in _causes(cause))


def _stream(
    file: HubFile, there: _There, start: int, seconds: float
) -> Iterator[tuple[int, bytes]]:
    """Pieces of the file, each with its place: from `start` where the server can, else from 0.

    Raises
    ------
    AwayError, CheckpointError
        An answer that is not the file.
    _BrokenError
    """
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
            raise _answered(file, response.status_code, response.headers)
        if "html" in response.headers.get("Content-Type", "") and not file.path.endswith("html"):
            raise AwayError(file, _stranger())
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


def _download(file: HubFile, there: _There, target: Path, show_progress: bool) -> None:
    """Fetch a file; a transfer that breaks is taken up where it broke.

    Raises
    ------
    AwayError, CheckpointError
    """
    seconds = _seconds("HF_HUB_DOWNLOAD_TIMEOUT")
    label = f"fetching {printable(Path(file.path).name)}"
    total = there.size or 0
    faults, reached = 0, 0
    with (
        open(target, "xb") as out,
        progress_bar(total, label, unit="bytes", show=show_progress) as advance,
    ):
        while True:
            before = reached
            try:
                for place, piece in _stream(file, there, reached, seconds):
                    out.seek(place)
                    out.write(piece)
                    end = place + len(piece)
                    advance(max(end - reached, 0))
                    reached = max(end, reached)
                return
            except _BrokenError as error:
                if reached - before >= PROGRESS:
                    faults = 0
                faults += 2 if error.silent else 1
                if faults >= FAULTS:
                    got = f"{byte_count(reached)} of {byte_count(total)}" if total else "it began"
                    after = f"the transfer broke off after {got}: " if reached else ""
                    reason = _explained(file, error.cause, seconds).reason
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
    """The cache's copy, where the Hub cannot be asked.

    Raises
    ------
    AwayError
        There is none, or it is damaged.
    """
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
    """The cache's copy of what the Hub has, fetched where it is missing or damaged.

    Raises
    ------
    AwayError, CheckpointError, OSError
    """
    folder = _folder(file)
    path = folder / "snapshots" / there.commit / file.path
    blob = folder / "blobs" / re.sub(r"[^A-Za-z0-9._-]", "_", there.checksum)
    name = printable(Path(file.path).name)
    tries = 2
    if path.is_file() and not _matches(path, there.checksum):
        report(f"{printable(path)} is damaged ({_compared(path, there)}): it is fetched again")
        tries = 1
        path.unlink()
    if not path.is_file():
        if blob.is_file() and not _matches(blob, there.checksum):
            blob.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        while not blob.is_file():
            size = f", {byte_count(there.size)}" if there.size is not None else ""
            report(f"fetching {file.address} (commit {there.commit[:12]}{size})")
            partial = blob.with_name(f"{blob.name}.{uuid.uuid4().hex[:8]}.incomplete")
            try:
                _download(file, there, partial, show_progress)
                if _matches(partial, there.checksum):
                    os.replace(partial, blob)
                    break
                what = _compared(partial, there)
            finally:
                partial.unlink(missing_ok=True)
            tries -= 1
            if not tries:
                raise CheckpointError(
                    f"encoder {printable(file.asked)} cannot be fetched: {name} arrives damaged "
                    f"again and again ({what}): try another network, or give a file's path"
                )
            report(f"{name} arrived damaged ({what}): it is fetched once more")
        _link(blob, path)
    if file.commit is None:
        reference = folder / "refs" / (file.revision or "main")
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(there.commit)
    return path


def _link(blob: Path, path: Path) -> None:
    path.unlink(missing_ok=True)  # a link to a blob that is gone
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except FileExistsError:
        return  # another process was faster
    except OSError:  # a file system without links
        shutil.copyfile(blob, path)


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


# ---- explaining ---------------------------------------------------------------------------------


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came from, innermost last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or "Timeout" in type(error).__name__


def _host() -> str:
    from huggingface_hub import constants

    return printable(urlsplit(constants.ENDPOINT).netloc or constants.ENDPOINT)


def _stranger() -> str:
    return (
        f"what answers at {_host()} is not the Hub, as where a network asks to log in first: open "
        "a web page in a browser, or check HF_ENDPOINT"
    )


def _explained(file: HubFile, error: Exception, seconds: float) -> AwayError:
    """What a network did, in words.

    Raises
    ------
    CheckpointError
        The Hub answered that there is no such file.
    """
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            explained = _answered(file, status, cause.response.headers)  # type: ignore[attr-defined]
            if isinstance(explained, AwayError):
                return explained
            raise explained from error
    causes = list(_causes(error))
    names = {type(cause).__name__ for cause in causes}
    host = _host()
    if "OfflineModeIsEnabled" in names:
        return AwayError(file, "HF_HUB_OFFLINE is set, so the Hub is not asked")
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return AwayError(
            file, f"the name {host} cannot be looked up: check the network, or HF_ENDPOINT"
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return AwayError(
            file, f"{host} has no certificate that is trusted here: check the network's login page"
        )
    if any(_is_timeout(cause) for cause in causes):
        return AwayError(
            file,
            f"{host} does not answer within {seconds:g} s: try again later, allow more seconds "
            "with HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, or give a file's path",
        )
    if names & {"RemoteProtocolError", "ReadError", "ConnectionResetError", "TooManyRedirects"}:
        return AwayError(file, f"{host} closed the connection: run it again, or give a file's path")
    texts = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    why = texts[-1] if texts else type(error).__name__
    return AwayError(
        file, f"{host} cannot be reached ({printable(why)}): check the network, or HF_ENDPOINT"
    )


def _answered(file: HubFile, status: int, headers: Mapping[str, str]) -> CheckpointError:
    """What an answer that is an error means."""
    from huggingface_hub import constants, get_token

    repository = file.repository
    said = f"the Hub answered {status}"
    code = headers.get("X-Error-Code", "")
    if status == 404 or code in ("RepoNotFound", "EntryNotFound", "RevisionNotFound"):
        revision = printable(file.revision or "main")
        nothing = {
            "RepoNotFound": f"there is no repository {repository}, or it is private: HF_TOKEN "
            "must be a token that may read it",
            "RevisionNotFound": f"{repository} has no revision {revision}",
            "EntryNotFound": f"{repository} has no file {printable(file.path)} at {revision}",
        }.get(code, f"it has no {printable(file.path)} of {repository} at {revision}")
        if status != 401:
            return CheckpointError(
                f"encoder {printable(file.asked)} cannot be fetched: {said}: {nothing}"
            )
    if status == 401:
        token = (
            "the token in HF_TOKEN, or kept by hf auth login, is not accepted"
            if get_token()
            else "set HF_TOKEN to a token that may read it"
        )
        return AwayError(file, f"{said}: {repository} is private, or is not there: {token}")
    if status == 403:
        page = f"{constants.ENDPOINT}/{repository}"
        return AwayError(
            file,
            f"{said}: {repository} is not open to everyone: ask for access at {printable(page)} "
            "and set HF_TOKEN to a token that may read it",
        )
    if status == 429:
        wait = headers.get("Retry-After", "")
        when = f"in {wait} s" if wait.isdigit() else "later"
        return AwayError(
            file, f"{said}, too many requests: try again {when}; with HF_TOKEN set it allows more"
        )
    if status >= 500:
        return AwayError(file, f"{said}, a fault there: try again later, or give a file's path")
    return AwayError(file, f"{said}, which is not expected: check HF_ENDPOINT and HF_TOKEN")
