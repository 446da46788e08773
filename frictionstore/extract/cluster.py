"""An extraction whose units are computed by the workers of a Dask cluster.

The client plans, holds the target's lock and records; a worker measures one unit at a time, writes
its shards into the unfinished folder, which all must see, and returns the unit's record. No array
goes over the wire. Who computes what, and again when a worker dies, is Dask's affair.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import islice
from typing import Any

from distributed import Client, wait
from distributed.scheduler import KilledWorker

from frictionstore.cluster import (
    FIRST_WORKER,
    ask,
    check_versions,
    connected,
    losses,
    no_worker,
)
from frictionstore.errors import DeviceError, RequestError
from frictionstore.extract.cluster_worker import UnitWorker, on_worker
from frictionstore.extract.measuring import Measuring
from frictionstore.extract.pipeline import Progress
from frictionstore.extract.rounding import Rounding
from frictionstore.extract.sharing import device_kind
from frictionstore.store.writer import StoreWriter
from frictionstore.text import printable

AHEAD = 2  # units in flight for each worker
RETRIES = 3  # of a unit that fails other than by an error of ours
LOOK = 5.0  # seconds between looks whether there is one
SAME = ("frictionstore", "torch", "numpy", "zarr", "numcodecs")
GO_ON = "what is complete is kept, run the same command again to go on"


def extract_on_cluster(
    address: str,
    writer: StoreWriter,
    measuring: Measuring,
    *,
    allow_mixed_devices: bool = False,
    report: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda images: None,
    rounding: Rounding,
) -> dict[str, Any]:
    """Have every unit measured and written by the workers of a cluster, and record it.

    Parameters
    ----------
    address : str
        ``local``, ``local:N``, ``tcp://HOST:PORT`` or a scheduler file.
    writer : StoreWriter
        Entered.
    measuring : Measuring
    allow_mixed_devices : bool
    report, progress : callable
    rounding : Rounding
        Is told what the workers counted.

    Returns
    -------
    dict
        ``measured`` images, ``units``, ``retries`` and ``workers``: units, images and images per
        second of each.

    Raises
    ------
    FrictionstoreError
        A worker does not see what the client sees, devices differ, or a unit cannot be measured.
    """
    with (
        connected(address, _gpus(address, measuring.job.device)) as (client, threads),
        losses(GO_ON),
    ):
        check_versions(client, SAME)
        plugin = UnitWorker(writer.partial, writer.plan, measuring, threads)
        client.register_plugin(plugin, name=plugin.name)
        try:
            kinds = Kinds(allow_mixed_devices)
            for worker, answer in ask(client, on_worker, plugin.name, None).items():
                if "error" in answer:
                    raise RequestError(f"worker {printable(worker)}: {answer['error']}")
                kinds.add(worker, answer)
            report(f"measuring {len(writer.pending):,} units on {len(kinds.seen):,} workers")
            return _measure(client, plugin.name, writer, kinds, progress, rounding)
        finally:
            with suppress(Exception):  # a scheduler that is lost has nothing to forget
                client.unregister_worker_plugin(plugin.name)


def _gpus(address: str, device: str) -> list[str]:
    """GPUs that workers of this machine get, as CUDA_VISIBLE_DEVICES names them."""
    if address.partition(":")[0] != "local" or device == "cpu":
        return []
    if device not in ("auto", "cuda"):
        raise RequestError(
            f"--device {printable(device)} is one device: with --cluster local say cuda, and "
            "choose with CUDA_VISIBLE_DEVICES"
        )
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = [*map(str, range(torch.cuda.device_count()))]
    return visible.split(",")[: len(found)] if visible else found


def _measure(
    client: Client,
    name: str,
    writer: StoreWriter,
    kinds: Kinds,
    progress: Progress,
    rounding: Rounding,
) -> dict[str, Any]:
    waiting = iter(writer.pending)
    under_way: dict[Any, int] = {}
    done: dict[str, Counter[str]] = {}
    result = {"measured": 0, "units": 0, "retries": 0}
    while True:
        for number in islice(waiting, max(0, AHEAD * len(client.nthreads()) - len(under_way))):
            key = f"{name}-unit-{number}-{time.time_ns()}"
            future = client.submit(
                on_worker, name, number, key=key, pure=False, retries=RETRIES
            )  # fmt: skip
            under_way[future] = number
        if not under_way and len(writer.pending) == 0:
            break
        for future in _finished(client, [*under_way]):
            answer = _answer(future, under_way.pop(future))
            if "error" in answer:
                raise answer["error"]
            kinds.add(answer["worker"], answer["entry"]["run"])
            writer.record(answer["entry"])
            rounding.values += answer["rounding"][0]
            rounding.far += answer["rounding"][1]
            result["retries"] += _begun_again(client, future.key)
            result["measured"] += answer["images"]
            result["units"] += 1
            progress(answer["images"])
            of_worker = done.setdefault(str(answer["worker"]), Counter())
            milliseconds = round(1000 * answer["seconds"])
            of_worker.update(units=1, images=answer["images"], milliseconds=milliseconds)
    workers = [
        {
            "name": worker,
            "units": counts["units"],
            "images": counts["images"],
            "images_per_second": round(1000 * counts["images"] / max(counts["milliseconds"], 1), 2),
        }
        for worker, counts in sorted(done.items())
    ]
    return {**result, "workers": workers}


def _begun_again(client: Client, key: str) -> int:
    """How often a unit was begun again: after an error, or after a worker's death."""
    retries = RETRIES

    def ask(dask_scheduler: Any) -> int:
        # defined in here, so that it is sent as code: a scheduler may lack this package
        task = dask_scheduler.tasks.get(key)
        return 0 if task is None else int(task.suspicious + retries - task.retries)

    return int(client.run_on_scheduler(ask))


def _finished(client: Client, under_way: list[Any]) -> set[Any]:
    """Those that have ended, one at least; refused where there is no worker for a while."""
    alone = 0.0
    while under_way or alone < FIRST_WORKER:
        began = time.monotonic()
        if not under_way:  # there was no worker to submit to
            with suppress(TimeoutError):
                client.wait_for_workers(1, timeout=LOOK)
                return set()
        else:
            with suppress(TimeoutError):
                return wait(under_way, timeout=LOOK, return_when="FIRST_COMPLETED").done
        alone = 0.0 if client.nthreads() else alone + time.monotonic() - began
        if alone >= FIRST_WORKER:
            break
    raise no_worker(GO_ON)


def _answer(future: Any, number: int) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = future.result()
    except (KilledWorker, CancelledError):
        raise
    except Exception as error:
        raise RequestError(
            f"unit {number} failed on a worker {RETRIES + 1} times "
            f"({type(error).__name__}: {printable(error, 500)}): {GO_ON}"
        ) from error
    return answer


class Kinds:
    """Devices that have been seen, and which worker had the first."""

    def __init__(self, mixed: bool) -> None:
        self.mixed = mixed
        self.seen: dict[str, dict[str, Any]] = {}

    def add(self, worker: Any, run: Mapping[str, Any]) -> None:
        kind = device_kind(run)
        for other, known in self.seen.items():
            if known != kind and not self.mixed:
                raise DeviceError(
                    f"worker {printable(worker)} has {_told(kind)} and worker {printable(other)} "
                    f"{_told(known)}: last bits may differ; use workers of one kind, or say "
                    "--allow-mixed-devices"
                )
            break
        self.seen.setdefault(str(worker), kind)


def _told(kind: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {printable(value)}" for name, value in kind.items())
