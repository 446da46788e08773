"""Stores behind an address: http, https, s3 and hf, all read by ranges through obstore.

Credentials come from where their ecosystems keep them (the AWS environment and profiles, the
Hub's token) and go nowhere else: an address that carries some itself is refused, and no message
repeats more of an address than host and path.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote, urlsplit

from frictionstore.errors import RequestError, StoreError, UnreachableError
from frictionstore.installed import install_command
from frictionstore.io import relay
from frictionstore.io.base import SMALL_FILE_BYTES, Location, too_large
from frictionstore.text import printable

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

logger = logging.getLogger(__name__)

SCHEMES = ("http", "https", "s3", "hf")
HUB_KINDS = ("datasets", "spaces")
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+")  # names in any script; the latter of version 6
_NAME = re.compile(r"[A-Za-z0-9._-]+")
TIMEOUT_VARIABLE = "FRICTIONSTORE_TIMEOUT"
TIMEOUT_SECONDS = 60.0  # without a byte; an answer may take as long as it flows
CONNECT_SECONDS = 10.0
LONGEST_REQUEST_SECONDS = 3600
RETRIES = 3  # of requests that get no answer or one that says "later"
BODY_TRIES = 3  # of answers that break off
SLOW_SECONDS = 1.0  # obstore does not tell of its retries, but they take time
CREDENTIALS_LIFETIME = timedelta(minutes=15)

T = TypeVar("T")


def remote_module(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise RequestError(
            f"addresses need the package {package}: {install_command('remote')}"
        ) from None


def timeout_seconds() -> float:
    """Seconds without a byte after which a server is given up.

    Raises
    ------
    RequestError
        The environment variable is not a positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE)
    if text is None:
        return TIMEOUT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86400:
        raise RequestError(
            f"{TIMEOUT_VARIABLE} is {printable(text, 20)!r}: it must be a number of seconds"
        )
    return seconds


def _client_options(**more: Any) -> dict[str, Any]:
    seconds = timeout_seconds()
    return {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, seconds)),
        "read_timeout": timedelta(seconds=seconds),
        "timeout": timedelta(seconds=LONGEST_REQUEST_SECONDS),
        **more,
    }


def _retry_config() -> dict[str, Any]:
    return {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=2 * timeout_seconds()),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=10),
            "base": 2,
        },
    }


# ---- addresses -------------------------------------------------------------------------------


def check_address(address: str) -> None:
    """Refuse an address with a scheme that is not read, or that carries more than host and path.

    What cannot be a host, a bucket or a name is refused here: libraries below panic over some.

    Raises
    ------
    RequestError
        The message does not repeat what it refuses.
    """
    if not address.isprintable():  # urlsplit leaves some of these out and would judge another text
        raise RequestError(
            "the address of the store holds a character that cannot be printed: write it as %XX"
        )
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise RequestError("the address of the store is not a valid URL") from None
    scheme, host = parts.scheme.lower(), parts.hostname
    if scheme not in SCHEMES:
        raise RequestError(
            f"addresses that start with {printable(scheme, 20)}:// are not read: "
            f"expected {', '.join(f'{name}://' for name in SCHEMES)}, or a path"
        )
    shown = f"{scheme}://{printable(host, 80)}{f':{port}' if port else ''}"
    if not host:
        raise RequestError(f"{scheme}:// is not followed by a host or a name")
    # on the Hub, @ follows a repository's name and means a revision; before it, it means a person
    owner = parts.path.partition("/")[2].partition("/")[0] if host in HUB_KINDS else ""
    if "@" in parts.netloc + (owner if scheme == "hf" else ""):
        raise RequestError(
            f"the address at {shown} holds a user name or password, which would end up in logs: "
            "leave it out; credentials come from the environment"
        )
    if not (_HOST.fullmatch(host) if "http" in scheme else _NAME.fullmatch(parts.netloc)):
        raise RequestError(
            f"{shown}: {printable(host, 80)!r} cannot be the name of a host or store"
        )
    if scheme in ("s3", "hf") and {".", ".."} & set(parts.path.split("/")):
        raise RequestError(f"the address at {shown} has a part . or ..: write it without")
    if parts.query or parts.fragment or "?" in address:
        raise RequestError(
            f"the address at {shown} has a query (as signed links have): a store is several "
            "files, so give an address without one, or download the store first"
        )


def locate_remote(address: str) -> Location:
    """The place behind an address; nothing is asked of the server yet.

    Raises
    ------
    RequestError
        The address cannot be one of a store, or a package that reads it is not installed.
    """
    check_address(address)
    clean = address.rstrip("/")
    if clean.lower().endswith(".zip"):
        from frictionstore.io.zipped import ZipLocation

        folder, _, name = clean.rpartition("/")
        # in a key of S3 or a path on the Hub, a percent sign is one
        quoted = clean.lower().startswith("http")
        return ZipLocation(_folder(folder), unquote(name) if quoted else name)
    return _folder(clean)


def _folder(address: str) -> RemoteLocation:
    scheme, rest = address.split("://", 1)
    if scheme.lower() == "s3":
        return s3_location(rest)
    if scheme.lower() == "hf":
        return _hub_location(rest)
    return _http_location(f"{scheme.lower()}://{rest}")


def _http_location(url: str) -> RemoteLocation:
    return RemoteLocation(url, _http_store(url), "")


def _http_store(url: str, **more: Any) -> Any:
    store_module = remote_module("obstore.store")
    try:
        return store_module.HTTPStore.from_url(
            url, client_options=_client_options(**more), retry_config=_retry_config()
        )
    except (ValueError, OverflowError) as error:  # of hosts that are no numbers, and the like
        raise RequestError(
            f"{printable(url)} is not an address that can be asked: {printable(error, 80)}"
        ) from None


def split_hub(rest: str) -> tuple[str, str, str, str]:
    """Kind of repository, its name, revision and the path in it, of what follows ``hf://``.

    Raises
    ------
    RequestError
    """
    parts = rest.split("/")
    kind = parts.pop(0) if parts[0] in HUB_KINDS else "models"
    if len(parts) < 2 or not parts[0] or not parts[1]:
        raise RequestError(
            f"{printable(f'hf://{rest}', 80)} does not name a repository: expected "
            "hf://datasets/OWNER/NAME/PATH"
        )
    name, _, revision = parts[1].partition("@")
    path = "/".join(parts[2:])
    return kind, f"{parts[0]}/{name}", unquote(revision) if revision else "main", path


def _hub_location(rest: str) -> RemoteLocation:
    hub = remote_module("huggingface_hub")
    kind, name, revision, path = split_hub(rest)
    folder = "" if kind == "models" else f"{kind}/"
    endpoint = remote_module("huggingface_hub.constants").ENDPOINT
    url = f"{endpoint}/{folder}{name}/resolve/{quote(revision, safe='')}"
    token = hub.get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    store = _http_store(url, default_headers=headers)
    hint = "the token comes from HF_TOKEN or from hf auth login; without one, only public ones"
    return RemoteLocation(f"hf://{rest}", store, path, hint)


def s3_location(rest: str) -> RemoteLocation:
    """The place of ``s3://`` `rest`; endpoint and credentials are those AWS's own tools find."""
    bucket, _, prefix = rest.partition("/")
    session = remote_module("botocore.session").Session()
    where = f"s3://{bucket}"
    try:
        client = session.create_client("s3")
        endpoint, region = client.meta.endpoint_url, client.meta.region_name
        credentials = session.get_credentials()
    except Exception as error:
        # botocore's many exceptions about its configuration files share no useful base
        raise StoreError(
            f"{printable(where)}: the AWS configuration cannot be used "
            f"({type(error).__name__}): check the profile and the environment"
        ) from None
    options: dict[str, Any] = {"region": "us-east-1" if region == "aws-global" else region}
    host = urlsplit(endpoint).hostname
    if not (host and host.endswith((".amazonaws.com", ".amazonaws.com.cn"))):
        options["endpoint"] = endpoint
    if credentials is None:
        options["skip_signature"] = True
    else:
        options["credential_provider"] = _provider(credentials)
    store_module = remote_module("obstore.store")
    store = store_module.S3Store(
        bucket, client_options=_client_options(), retry_config=_retry_config(), **options
    )
    hint = (
        "no AWS credentials were found in the environment or a profile"
        if credentials is None
        else "the credentials are those of the AWS environment or profile"
    )
    return RemoteLocation(f"s3://{rest}", store, prefix, hint, can_list=True)


def _provider(credentials: Any) -> Callable[[], dict[str, Any]]:
    def provide() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_LIFETIME,
        }

    return provide


# ---- reading and writing ---------------------------------------------------------------------


class RemoteLocation:
    """A folder of an object store or a web server."""

    def __init__(
        self, text: str, store: Any, prefix: str, hint: str = "", *, can_list: bool = False
    ) -> None:
        self.text = text.rstrip("/")
        self.store = store
        self.prefix = prefix.strip("/")
        self.hint = hint
        self.can_list = can_list
        self.obstore = remote_module("obstore")

    def _path(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _ask(self, key: str, request: Callable[[str], T]) -> T | None:
        """The answer to a request about a file; None where there is no such file."""
        where = printable(f"{self.text}/{key}")
        for attempt in range(1, BODY_TRIES + 1):
            begun = time.monotonic()
            try:
                return request(self._path(key))
            except FileNotFoundError:
                return None
            except StoreError:
                raise
            except BaseException as error:
                if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                    raise
                if attempt == BODY_TRIES or not _broke_off(error):
                    # the original may quote a whole request; it is not passed on
                    raise self._explained(key, error) from None
                logger.info("%s: the answer broke off, asked again (%d)", where, attempt)
            finally:
                took = time.monotonic() - begun
                if took > SLOW_SECONDS:
                    logger.info("%s: that took %.1f s, with what was asked again for", where, took)
        raise AssertionError("the loop returns or raises")

    def read(self, key: str) -> bytes | None:
        if relay.needed():
            return relay.ask(self.text, "read", key)

        def request(path: str) -> bytes:
            answer = self.obstore.get(self.store, path)
            if answer.meta["size"] > SMALL_FILE_BYTES:
                raise too_large(self.text, key)
            return self._body(key, answer, answer.meta["size"])

        return self._ask(key, request)

    def size(self, key: str) -> int | None:
        if relay.needed():
            return relay.ask(self.text, "size", key)
        return self._ask(key, lambda path: int(self.obstore.head(self.store, path)["size"]))

    def read_range(self, key: str, start: int, count: int) -> bytes | None:
        if count <= 0:
            return b""
        if relay.needed():
            return relay.ask(self.text, "read_range", key, start, count)
        options = {"range": (start, start + count)}
        return self._ask(
            key,
            lambda path: self._body(
                key, self.obstore.get(self.store, path, options=options), count
            ),
        )

    def _body(self, key: str, answer: Any, limit: int) -> bytes:
        """The answer's bytes; more than `limit` are not taken in, whatever the server sends."""
        parts, have = [], 0
        for part in answer.stream():
            parts.append(part)
            have += len(part)
            if have > limit:
                raise UnreachableError(
                    f"{printable(f'{self.text}/{key}')}: the server sends more than the "
                    f"{limit:,} bytes that were asked for: it does not answer as a web server must"
                )
        return b"".join(parts)

    def files(self) -> Iterator[str] | None:
        if not self.can_list:
            return None
        if relay.needed():
            return relay.ask(self.text, "files")
        folder = self.prefix + "/" if self.prefix else ""

        def request(_: str) -> list[str]:
            pages = self.obstore.list(self.store, prefix=self.prefix or None)
            return [entry["path"].removeprefix(folder) for page in pages for entry in page]

        try:
            found = self._ask("", request)
        except StoreError:
            return None  # reading does not need the right to list
        return iter(found if found is not None else [])

    def zarr_store(self) -> ZarrStore:
        from frictionstore.io.ranged import RangedStore

        return RangedStore(self)

    def noted(self, key: str) -> tuple[int, str | None] | None:
        """Size of a file and the SHA-256 that `write` noted with it."""

        def request(path: str) -> tuple[int, str | None]:
            answer = self.obstore.get(self.store, path, options={"head": True})
            return int(answer.meta["size"]), dict(answer.attributes).get("sha256")

        return self._ask(key, request)

    def write(self, key: str, data: bytes | BinaryIO, sha256: str) -> None:
        """Put a file there, whole or not at all."""

        def request(path: str) -> None:
            if not isinstance(data, bytes):
                data.seek(0)
            self.obstore.put(self.store, path, data, attributes={"sha256": sha256})

        self._ask(key, request)

    def remove(self, key: str) -> None:
        self._ask(key, lambda path: self.obstore.delete(self.store, path))

    # ---- explaining ---------------------------------------------------------------------------

    def _explained(self, key: str, error: BaseException) -> UnreachableError:
        """One sentence for what a server or the network did."""
        where = printable(f"{self.text}/{key}".rstrip("/"))
        kind = type(error).__name__
        text = " ".join(str(error).split())
        if kind in ("PermissionDeniedError", "UnauthenticatedError"):
            hint = f" ({self.hint})" if self.hint else ""
            return UnreachableError(f"no permission for {where}, or there is nothing{hint}")
        if "kind: Timeout" in text or "TimedOut" in text:
            return UnreachableError(
                f"{where}: no answer within {timeout_seconds():g} s: try again later, or allow "
                f"more seconds with {TIMEOUT_VARIABLE}"
            )
        if "kind: Connect" in text:
            reason = "its name is not known" if "dns error" in text else "there is no connection"
            return UnreachableError(f"{where} cannot be reached: {reason}")
        if _broke_off(error):
            return UnreachableError(
                f"{where}: the transfer broke off {BODY_TRIES} times: run the same command again"
            )
        for mark, said in _MARKS.items():
            if mark in text:
                return UnreachableError(f"{where}: {said}")
        status = re.search(r"status code: (\d{3}[ A-Za-z-]*)", text)
        if status:
            return UnreachableError(f"{where}: the server answered {status[1].strip()}")
        return UnreachableError(f"{where}: the request failed ({kind})")


_ELSEWHERE = "copy the store's files with another program and read the copy"
_MARKS = {
    "RangeNotSupported": "the server does not answer requests for parts of a file, which reading a "
    f"store in place needs: {_ELSEWHERE}",
    "MissingContentLength": "the server does not say how long its answer is (Content-Length), "
    f"which reading a store in place needs: {_ELSEWHERE}",
    "following redirect": "the server sends on from address to address without an end: ask for the "
    "store's present address",
    "without LOCATION": "the bucket is in another region: set AWS_REGION to it",
}


def _broke_off(error: BaseException) -> bool:
    text = str(error)
    return "kind: Interrupted" in text or "IncompleteBody" in text or "kind: Body" in text
