"""What a store says of how it was made; none of it decides the content."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from frictionstore.extract.recorded import asked, version_of
from frictionstore.extract.request import EncoderIdentity, Job
from frictionstore.format.fingerprint import as_json
from frictionstore.text import without_credentials
from frictionstore.version import __version__

if TYPE_CHECKING:
    from frictionstore.extract.encoder.checkpoints import Source
    from frictionstore.extract.engines.base import Engine
VERSIONED = ("numpy", "zarr", "numcodecs", "pillow", "torchvision", "numba", "scikit-learn")


def of_run(engine: Engine) -> dict[str, Any]:
    """The engine and the versions of what it rests on."""
    versions = {"frictionstore": __version__, "python": platform.python_version()}
    for package in VERSIONED:
        found = version_of(package)
        if found is not None:
            versions[package] = found
    return {**engine.describe(), "versions": versions}


def of_encoder(
    job: Job, source: Source | None, identity: EncoderIdentity | None, loaded: Iterable[Any]
) -> dict[str, Any]:
    """Where the encoder came from, its whole config and what its readers noted."""
    encoder: dict[str, Any] = {"name": job.encoder}
    if source is not None:
        encoder = {"origin": source.origin, "file_sha256": source.sha256}
    if identity is not None:
        encoder["config"] = as_json(identity.config)
    for one in loaded:
        if one is not None and one.notes:
            encoder["notes"] = as_json(one.notes)
    return encoder


def of_job(job: Job, measured: int, seconds: float) -> dict[str, Any]:
    """What was asked for, when, and how long it took."""
    return {
        "made_by": "frictionstore extract",
        "command": [*map(without_credentials, sys.argv)],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": job.recipe,
        "dataset": job.dataset,
        "asked": asked(job),
        "measured_images": measured,
        "seconds": round(seconds, 3),
        "images_per_second": round(measured / seconds, 2) if measured and seconds else None,
    }
