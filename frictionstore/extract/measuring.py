"""What measures images for a job: the engine, and how it is described in the provenance.

A `Measuring` can be pickled, and makes its engine where it has come to.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from frictionstore.cores import cores
from frictionstore.extract.encoder.checkpoints import Checkpoint, build_encoder
from frictionstore.extract.engines.devices import choose_device
from frictionstore.extract.engines.make import native_engine
from frictionstore.extract.recorded import version_of
from frictionstore.extract.request import Job
from frictionstore.version import __version__

if TYPE_CHECKING:
    from frictionstore.extract.data.base import Dataset
    from frictionstore.extract.engines.base import Engine, NativeEngine
    from frictionstore.progress import Report

VERSIONED = ("numpy", "zarr", "numcodecs", "pillow", "torchvision", "numba", "scikit-learn")


@dataclass(frozen=True)
class Measuring:
    """An encoder and the images that it is to measure.

    Attributes
    ----------
    job : Job
    checkpoint : Checkpoint
    encoder : str
        Name of the encoder's file, for messages.
    dataset : Dataset
    """

    job: Job
    checkpoint: Checkpoint
    encoder: str
    dataset: Dataset

    def engine(self, report: Report, threads: int | None = None) -> NativeEngine:
        job = self.job
        return native_engine(
            build_encoder(self.checkpoint, self.encoder),
            job.measured_maps,
            choose_device(job.device),
            threads=threads,
            value_range=self.dataset.value_range,
            precision=job.precision,
            gram=job.gram,
            repeats=job.repeats,
            report=report,
        )


def describe_run(engine: Engine) -> dict[str, Any]:
    """What measured a unit, and with which versions."""
    versions = {"frictionstore": __version__, "python": platform.python_version()}
    for package in VERSIONED:
        found = version_of(package)
        if found is not None:
            versions[package] = found
    return {**engine.describe(), "versions": versions}


def loading_processes(job: Job, dataset: Dataset) -> int:
    """How many processes load images."""
    if job.workers is not None:
        return job.workers
    return 0 if dataset.in_memory else cores(8)
