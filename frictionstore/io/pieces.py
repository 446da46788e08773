"""Files read piece by piece, hashed on the way, and several at a time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Protocol, TypeVar

from frictionstore.io.base import Location

PIECE_BYTES = 8 << 20  # one read; a slow link moves this much before a request times out
T = TypeVar("T")


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def pieces(place: Location, key: str, size: int, start: int = 0) -> Iterator[bytes]:
    """A file of `size` bytes from `start` on, in order; what is shorter ends early."""
    while start < size:
        data = place.read_range(key, start, min(PIECE_BYTES, size - start))
        if not data:
            return
        yield data
        start += len(data)


def same(
    place: Location,
    key: str,
    size: int,
    sha256: str,
    each: Callable[[bytes], object] = lambda data: None,
    *,
    start: int = 0,
    begun: Hash | None = None,
) -> bool:
    """Whether a file of another place has the bytes that it should have.

    Parameters
    ----------
    place, key : Location, str
    size, sha256 : int, str
        What it should have.
    each : callable
        Is given every piece.
    start : int
        Where to begin reading; `begun` has been fed what is before.

    Returns
    -------
    bool
        Size and SHA-256 are those.
    """
    digest = hashlib.sha256() if begun is None else begun
    for data in pieces(place, key, size, start):
        digest.update(data)
        each(data)
        start += len(data)
    return start == size and digest.hexdigest() == sha256


def feed(digest: Hash, file: BinaryIO) -> int:
    """Hash what is left of an open file; how many bytes that were."""
    done = 0
    while data := file.read(PIECE_BYTES):
        digest.update(data)
        done += len(data)
    return done


def for_each(
    items: Iterable[T], work: Callable[[T, threading.Event], None], threads: int, name: str
) -> None:
    """Do `work` on every item in threads; the first that fails stops the others and is raised.

    The event that `work` is given is set as soon as one has failed, so that a long one can end.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def one(item: T) -> None:
        if stop.is_set():
            return
        try:
            work(item, stop)
        except BaseException as error:
            failures.append(error)
            stop.set()

    with ThreadPoolExecutor(threads, name) as pool:
        try:
            list(pool.map(one, items))
        except BaseException:
            stop.set()  # Ctrl-C: what runs is not waited for to its end
            raise
    # those after the first only say that they were stopped, wherever they stand among the items
    if failures:
        raise failures[0]
