"""Parts of a store read by the workers of a Dask cluster, and merged here in their order.

A worker opens the store by its address, reads a part, and returns what each collector has seen of
it. No value of a map goes over the wire but in that. Imported where a cluster is asked for.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from distributed import Client, WorkerPlugin, get_worker

from frictionstore.analyses.core.collecting import images_of, part_of
from frictionstore.analyses.core.reading import read_part, readers
from frictionstore.analyses.core.source import MapStore
from frictionstore.cluster import (
    FIRST_WORKER,
    ask,
    check_versions,
    connected,
    losses,
    no_worker,
    versions_of,
)
from frictionstore.errors import FrictionstoreError, RequestError
from frictionstore.text import printable

AHEAD = 2
"""Parts in flight for each worker; what was seen of them waits on the workers."""
RETRIES = 3
LOOK = 5.0
"""Seconds between looks whether there is a worker."""
SAME = ("frictionstore", "numpy", "scipy", "numcodecs")
GO_ON = "nothing was written, run the same command again"


class PartReader(WorkerPlugin):
    """What a worker keeps during one pass; Dask sends it once to each, also to late ones."""

    def __init__(self, store: MapStore, collectors: Sequence[Any]) -> None:
        self.name = f"frictionstore-analyses-{os.getpid()}-{time.time_ns()}"
        self._store = store
        self._collectors = [part_of(collector) for collector in collectors]
        self._versions = versions_of(SAME)()

    def setup(self, worker: Any) -> None:
        self._lock = threading.Lock()

    def read(self, part: slice) -> list[dict[str, Any]]:
        """Return what each collector has seen of a part."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        mine = versions_of(SAME)()
        for name, wanted in self._versions.items():
            if mine[name] != wanted:  # a worker that has come since the first were asked
                raise RequestError(
                    f"worker {printable(get_worker().name)} has {name} {printable(mine[name])}, "
                    f"and the client {wanted}: last bits may differ; install the same versions"
                )
        with self._lock, threadpool_limits(limits=1, user_api="blas"):
            return read_part(self._store, self._collectors, part, lambda images: None)


def on_worker(name: str, part: slice) -> Any:
    """Read a part; an error of ours is an answer, which nobody need ask again."""
    reader: Any = get_worker().plugins[name]
    try:
        return reader.read(part)
    except FrictionstoreError as error:
        return error


def sees(location: str, digest: str) -> None:
    """Open a store as a worker does.

    Raises
    ------
    StoreError
        It is not there, or another one is.
    """
    from frictionstore import open as open_store

    found = open_store(location).digest
    if found != digest:
        raise RequestError(f"sees another store at {printable(location)}")


class Workers:
    """Reads parts on the workers of a cluster: a `reading.Reader`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen: set[str] = set()

    def _check(self, store: Any) -> None:
        """Have every worker open the store, once."""
        while not hasattr(vars(store).get("header"), "location"):
            store = vars(store).get("_store")
            if store is None:
                raise RequestError("--cluster is for stores in a file or at an address")
        where = store.location if "://" in store.location else os.path.abspath(store.location)
        if where not in self._seen:
            ask(self._client, sees, where, store.digest)
            self._seen.add(where)

    def __call__(
        self, store: MapStore, collectors: Sequence[Any], of: Sequence[slice],
        advance: Callable[[int], None],
    ) -> Iterator[list[dict[str, Any]]]:  # fmt: skip
        """Yield what was seen of each part, in their order, whoever is first."""
        client = self._client
        with losses(GO_ON):
            self._check(store)
            plugin = PartReader(store, collectors)
            client.register_plugin(plugin, name=plugin.name)
            del collectors
            waiting, under_way = deque(enumerate(of)), deque[tuple[slice, Any]]()
            try:
                while waiting or under_way:
                    while waiting and len(under_way) < AHEAD * max(1, len(client.nthreads())):
                        number, part = waiting.popleft()
                        key = f"{plugin.name}-part-{number}"
                        future = client.submit(
                            on_worker, plugin.name, part, key=key, pure=False, retries=RETRIES
                        )
                        under_way.append((part, future))
                    part, future = under_way.popleft()
                    found = _answer(client, future)
                    del future
                    yield found
                    advance(images_of(store, part))
            finally:
                with suppress(Exception):  # a scheduler that is lost has nothing to forget
                    client.cancel([future for _, future in under_way])
                    client.unregister_worker_plugin(plugin.name)


def _answer(client: Client, future: Any) -> list[dict[str, Any]]:
    """Return what a part gave, as soon as it is there.

    Raises
    ------
    FrictionstoreError
        The part's own, or what it failed of; the cluster has had no worker for a while.
    """
    from concurrent.futures import CancelledError

    from distributed.scheduler import KilledWorker

    alone = 0.0
    while True:
        try:
            found = future.result(timeout=LOOK)
        except TimeoutError:
            alone = 0.0 if client.nthreads() else alone + LOOK
            if alone >= FIRST_WORKER:
                raise no_worker(GO_ON) from None
            continue
        except (KilledWorker, CancelledError, OSError):
            raise
        except Exception as error:
            raise RequestError(
                f"a part failed on a worker {RETRIES + 1} times ({type(error).__name__}: "
                f"{printable(error, 500)}): {GO_ON}"
            ) from error
        if isinstance(found, FrictionstoreError):
            raise found
        return list(found)


@contextmanager
def on_cluster(address: str) -> Iterator[None]:
    """Have the workers of a cluster read for all passes of this context.

    Raises
    ------
    RequestError
        There is no such cluster, or its workers have other versions than this client.
    """
    with connected(address) as (client, _):
        with losses(GO_ON):
            check_versions(client, SAME)
        token = readers.set(Workers(client))
        try:
            yield
        finally:
            readers.reset(token)
