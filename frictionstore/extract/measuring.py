"""What measures images for a job: the engine that a job asks for.

A `Measuring` can be pickled, and makes its engine where it has come to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from frictionstore.cores import cores
from frictionstore.extract.encoder.checkpoints import Checkpoint, build_encoder
from frictionstore.extract.engines.devices import choose_device
from frictionstore.extract.engines.make import native_engine
from frictionstore.extract.request import Job

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from frictionstore.extract.data.base import Dataset
    from frictionstore.extract.engines.base import NativeEngine
    from frictionstore.progress import Report


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
    groups : ndarray, optional
        Group of each image, where the store has them.
    """

    job: Job
    checkpoint: Checkpoint
    encoder: str
    dataset: Dataset
    groups: NDArray[np.int32] | None = None

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


def loading_processes(job: Job, dataset: Dataset) -> int:
    """How many processes load images."""
    if job.workers is not None:
        return job.workers
    return 0 if dataset.in_memory else cores(8)
