"""A Dask cluster: one of this machine's, or one that stands already.

What is computed on it is said elsewhere; here it is found, connected to, and its workers asked.
Dask is an extra and imported when a cluster is asked for.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from frictionstore.cores import SHARE, cores
from frictionstore.errors import RequestError
from frictionstore.installed import install_command
from frictionstore.text import printable

if TYPE_CHECKING:
    from distributed import Client

DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # Ctrl-C is the client's
CORE_GROUP = 4  # cores of a worker on this machine, where there is no GPU
DEATHS = 1000  # of workers under one task, on this machine; a scheduler elsewhere has its own limit
TOLD_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# what a worker that is killed leaves to it, Python's resource tracker removes: nothing to warn of
UNWARNED = "ignore:resource_tracker:UserWarning"
# Who reaches a scheduler or a worker runs what they like on it: nobody from another machine does.
ALONE = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
FIRST_WORKER = 60.0  # seconds without any worker after which it is said


def check_cluster(address: str) -> None:
    """Refuse what is no cluster, before anything is begun.

    Raises
    ------
    RequestError
        It is no address of a cluster, or Dask is not installed.
    """
    kind, colon, rest = address.partition(":")
    if kind == "local":
        good = not colon or (rest.isascii() and rest.isdigit() and int(rest) > 0)
    else:
        good = address.endswith(".json") or ("://" in address and rest != "//")
    if not good:
        raise RequestError(
            f"--cluster {printable(address)} is not local, local:N, tcp://HOST:PORT or a "
            "scheduler's .json file"
        )
    if address.endswith(".json") and not Path(address).is_file():
        raise RequestError(
            f"--cluster {printable(address)} is not there: dask scheduler --scheduler-file writes "
            "it"
        )
    if find_spec("distributed") is None:
        raise RequestError(f"--cluster needs Dask: {install_command('cluster')}")


@contextmanager
def connected(address: str, gpus: Sequence[str] = ()) -> Iterator[tuple[Client, int | None]]:
    """A client of the cluster, and the threads of a worker where it is one of this machine.

    Such a cluster has a worker for each of the `gpus`, as CUDA_VISIBLE_DEVICES names them, or for
    every four cores; a number in the address goes before both.
    """
    from distributed import Client

    kind, _, count = address.partition(":")
    for name in [*logging.root.manager.loggerDict]:  # what is lost is said in a sentence of ours
        if name.split(".")[0] in ("asyncio", "distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if kind == "local":
        with _local(count, gpus) as found:
            yield found
        return
    told = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    try:
        client = Client(**told)
    except (OSError, ValueError, ImportError) as error:
        raise RequestError(
            f"no scheduler answers at --cluster {printable(address)} ({printable(error)}): start "
            "one with dask scheduler, or say --cluster local"
        ) from None
    with client:
        yield client, None


@contextmanager
def _held_back() -> Iterator[None]:
    """Ctrl-C and the like wait until the body is done: Dask half started cannot be ended.

    What is started meanwhile never hears of Ctrl-C at all.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone hears of them
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in TOLD_TO_END}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _local(count: str, gpus: Sequence[str]) -> Iterator[tuple[Client, int]]:
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    workers = int(count) if count else len(gpus) or max(1, cores() // CORE_GROUP)
    threads = max(1, cores() // workers)

    def environment(number: int) -> dict[str, str]:
        share = {SHARE: str(threads)}
        return share | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})

    settings = {
        "distributed.scheduler.allowed-failures": DEATHS,
        "distributed.worker.memory.terminate": False,
    }
    with dask.config.set(settings), TemporaryDirectory(prefix="frictionstore-") as scratch:
        specification = {
            number: {
                "cls": Nanny,
                "options": {
                    "nthreads": 1,
                    "memory_limit": 0,
                    "env": environment(number),
                    "silence_logs": logging.CRITICAL,
                    "preload": [DEAF],
                    **ALONE,
                    "local_directory": scratch,
                },
            }
            for number in range(workers)
        }
        scheduler = {
            "cls": Scheduler,
            "options": ALONE,
        }
        sys.warnoptions.append(UNWARNED)
        resource_tracker.ensure_running()  # whose start lets Ctrl-C through, where it is held back
        with ExitStack() as opened:
            try:
                with _held_back():
                    cluster = opened.enter_context(
                        SpecCluster(
                            workers=specification,
                            scheduler=scheduler,
                            silence_logs=logging.CRITICAL,
                        )
                    )
                    client = opened.enter_context(Client(cluster))
                yield client, threads
            finally:
                with _held_back():
                    opened.close()


@contextmanager
def losses(go_on: str) -> Iterator[None]:
    """Say in a sentence that the scheduler, or all workers, were lost, and how to `go_on`."""
    from concurrent.futures import CancelledError

    from distributed.scheduler import KilledWorker

    try:
        yield
    except (CancelledError, OSError) as error:
        raise RequestError(f"the scheduler is lost ({printable(error)}): {go_on}") from None
    except KilledWorker as error:
        raise RequestError(
            f"workers died under {printable(error.task)} {error.allowed_failures + 1} times "
            f"(memory is the usual reason): {go_on}"
        ) from None


def no_worker(go_on: str) -> RequestError:
    """Return what is raised where a cluster has had no worker for `FIRST_WORKER` seconds."""
    return RequestError(f"the cluster has had no worker for {FIRST_WORKER:.0f} s: {go_on}")


def ask(client: Client, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Every worker's answer; one that has gone meanwhile has none."""
    from distributed.comm import CommClosedError

    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER)
    except TimeoutError:
        raise no_worker("start some, with dask worker") from None
    answers = client.run(function, *arguments, on_error="return")
    names = {
        address: about["name"] for address, about in client.scheduler_info(-1)["workers"].items()
    }
    found = {}
    for address, answer in answers.items():
        if isinstance(answer, (CommClosedError, OSError)):
            continue
        worker = names.get(address, address)
        if isinstance(answer, Exception):
            raise RequestError(
                f"worker {printable(worker)} cannot be used: {type(answer).__name__}, "
                f"{printable(answer, 500)}"
            )
        found[str(worker)] = answer
    return found


def versions_of(names: tuple[str, ...]) -> Callable[[], dict[str, str | None]]:
    """Return what says which versions of packages are installed, None of one that is not."""

    def versions() -> dict[str, str | None]:
        # defined in here, so that it is sent as code: a worker may lack this package
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        return found

    return versions


def check_versions(client: Client, names: tuple[str, ...]) -> None:
    """Refuse workers of other versions before anything of ours is sent to them."""
    versions = versions_of(names)
    mine = versions()
    for worker, theirs in ask(client, versions).items():
        for name, value in mine.items():
            if theirs[name] != value:
                raise RequestError(
                    f"worker {printable(worker)} has {name} {printable(theirs[name])}, and this "
                    f"client {value}: last bits may differ; install the same versions"
                )
