"""What a network or the Hub did instead of giving a file, in words."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from frictionstore.errors import CheckpointError
from frictionstore.extract.encoder.hub_address import AwayError, HubFile
from frictionstore.text import printable


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came from, innermost last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or "Timeout" in type(error).__name__


def _host() -> str:
    from huggingface_hub import constants

    return printable(urlsplit(constants.ENDPOINT).netloc or constants.ENDPOINT)


def stranger() -> str:
    return (
        f"what answers at {_host()} is not the Hub, as where a network asks to log in first: open "
        "a web page in a browser, or check HF_ENDPOINT"
    )


def explained(file: HubFile, error: Exception, seconds: float) -> AwayError:
    """What a network did, in words.

    Raises
    ------
    CheckpointError
        The Hub answered that there is no such file.
    """
    chain = list(causes(error))
    for cause in chain:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            meant = answered(file, status, cause.response.headers)  # type: ignore[attr-defined]
            if isinstance(meant, AwayError):
                return meant
            raise meant from error
    names = {type(cause).__name__ for cause in chain}
    host = _host()
    if "OfflineModeIsEnabled" in names:
        return AwayError(file, "HF_HUB_OFFLINE is set, so the Hub is not asked")
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return AwayError(
            file, f"the name {host} cannot be looked up: check the network, or HF_ENDPOINT"
        )
    if any(isinstance(cause, ssl.SSLError) for cause in chain):
        return AwayError(
            file, f"{host} has no certificate that is trusted here: check the network's login page"
        )
    if any(is_timeout(cause) for cause in chain):
        return AwayError(
            file,
            f"{host} does not answer within {seconds:g} s: try again later, allow more seconds "
            "with HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, or give a file's path",
        )
    if names & {"RemoteProtocolError", "ReadError", "ConnectionResetError", "TooManyRedirects"}:
        return AwayError(file, f"{host} closed the connection: run it again, or give a file's path")
    texts = [cause.strerror for cause in chain if isinstance(cause, OSError) and cause.strerror]
    why = texts[-1] if texts else type(error).__name__
    return AwayError(
        file, f"{host} cannot be reached ({printable(why)}): check the network, or HF_ENDPOINT"
    )


def answered(file: HubFile, status: int, headers: Mapping[str, str]) -> CheckpointError:
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
