"""What a worker of a Dask cluster does in an extraction: measure a unit, write its shards."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker

from frictionstore.errors import FrictionstoreError, RequestError
from frictionstore.extract.measuring import Measuring, loading_processes
from frictionstore.extract.pipeline import extract_units
from frictionstore.extract.provenance import of_run
from frictionstore.extract.rounding import Rounding
from frictionstore.format.plan import StorePlan
from frictionstore.io.regular import sha256_of
from frictionstore.store.place import PLAN_FILE
from frictionstore.store.unit import write_shards
from frictionstore.text import printable


@dataclass
class Unit:
    """What a pipeline needs of a writer, for one unit."""

    partial: Path
    plan: StorePlan
    number: int
    entry: dict[str, Any] | None = None

    @property
    def pending(self) -> list[int]:
        return [self.number]

    def write_unit(self, number: int, arrays: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        self.entry = write_shards(self.partial, self.plan, number, arrays, run)


class UnitWorker(WorkerPlugin):
    """What a worker keeps while a job runs; Dask sends it once to each, also to late ones.

    Parameters
    ----------
    partial : Path
    plan : StorePlan
    measuring : Measuring
    threads : int, optional
        Of a CPU; by default those that the worker was started with.
    """

    def __init__(
        self, partial: Path, plan: StorePlan, measuring: Measuring, threads: int | None
    ) -> None:
        self.partial, self.plan, self.measuring, self.threads = partial, plan, measuring, threads
        self.name = f"frictionstore-{plan.fingerprint}"
        self.plan_sha256 = sha256_of(partial, PLAN_FILE)
        self.first_image = self._first_image()

    def _first_image(self) -> str:
        image = self.measuring.dataset.load(0, self.measuring.job.image_size)
        return hashlib.sha256(image.tobytes()).hexdigest()

    def setup(self, worker: Any) -> None:
        self.lock = threading.Lock()
        self.engine: Any = None
        self.threads = self.threads or worker.state.nthreads

    def teardown(self, worker: Any) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    def ready(self) -> dict[str, Any]:
        """Make the engine where there is none; what it says of itself.

        Raises
        ------
        FrictionstoreError
            This machine does not see what the client sees.
        """
        with self.lock:
            if self.engine is None:
                if sha256_of(self.partial, PLAN_FILE) != self.plan_sha256:
                    raise RequestError(
                        f"this worker does not see {printable(self.partial)}: choose an --out on "
                        "a file system that all workers share"
                    )
                if self._first_image() != self.first_image:
                    raise RequestError("this worker reads other images than the client")
                self.engine = self.measuring.engine(lambda text: None, self.threads)
            return of_run(self.engine)

    def measure(self, number: int) -> dict[str, Any]:
        run = self.ready()
        with self.lock:
            began = time.monotonic()
            unit, rounding = Unit(self.partial, self.plan, number), Rounding()
            job, dataset = self.measuring.job, self.measuring.dataset
            images = extract_units(
                unit, dataset, self.engine, image_size=job.image_size, batch_size=job.batch_size,
                workers=loading_processes(job, dataset), run=run, seen=rounding.add,
                groups=self.measuring.groups,
            )  # fmt: skip
        return {
            "entry": unit.entry, "images": images, "rounding": (rounding.values, rounding.far),
            "seconds": time.monotonic() - began, "worker": get_worker().name,
        }  # fmt: skip


def on_worker(name: str, number: int | None, dask_worker: Any = None) -> dict[str, Any]:
    """Measure a unit, or get ready; an error of ours is an answer, which nobody need ask again."""
    plugin: Any = (dask_worker or get_worker()).plugins[name]
    try:
        return plugin.ready() if number is None else plugin.measure(number)
    except FrictionstoreError as error:
        return {"error": error}
