"""What a job asks for, and what of it decides the store's content."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frictionstore.errors import RequestError
from frictionstore.extract.conduit.constants import ConduitConstants
from frictionstore.extract.conduit.repeats import SEED as REPEATS_SEED
from frictionstore.extract.recipe import DEFAULT_RECIPE, GRAMS, read_recipe
from frictionstore.format import schema
from frictionstore.format.fingerprint import leaves
from frictionstore.text import printable

if TYPE_CHECKING:
    from frictionstore.extract.data.base import Dataset
    from frictionstore.extract.data.groups import Grouping
CHANNELS = {1: "L", 3: "RGB"}  # Pillow's modes


@dataclass(frozen=True)
class Job:
    """What an extraction was asked to do; see ``frictionstore extract --help``."""

    dataset: str
    encoder: str
    out: Path
    image_size: int = 64
    maps: tuple[str, ...] = schema.DEFAULT_MAPS
    engine: str = "native"
    device: str = "auto"
    precision: str = "float32"
    gram: str = "coordinated"
    repeats: int = 2
    split: str | None = None
    count: int | None = None
    seed: int | None = None
    limit: int | None = None
    data_root: Path = Path("data/torchvision")
    download: bool = False
    skip_unreadable: bool = False
    groups: str | None = None
    batch_size: int = 256
    workers: int | None = None
    shard_images: int | None = None
    recipe: str | None = None

    @property
    def measured_maps(self) -> tuple[str, ...]:
        """The maps, and the repeats that are stored beside them."""
        return schema.with_repeats(self.maps, self.repeats)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Job:
        """A job from a recipe (option ``recipe``) and options that override it; None is unset.

        Raises
        ------
        RequestError
            The recipe does not exist or is not valid, or something needed is missing.
        """
        given = {key: value for key, value in options.items() if value is not None}
        name = given.get("recipe")
        merged = {**(read_recipe(name) if name else {}), **given}
        merged.pop("description", None)
        for key in ("dataset", "encoder", "out"):
            if key not in merged:
                raise RequestError(
                    f"--{key} is missing: give it, or a --recipe such as {DEFAULT_RECIPE}"
                )
        if isinstance(merged.get("maps"), str):
            merged["maps"] = [part.strip() for part in merged["maps"].split(",") if part.strip()]
        if "maps" in merged:
            merged["maps"] = schema.check_maps(merged["maps"])
        for key in ("out", "data_root"):
            if key in merged:
                merged[key] = Path(merged[key])
        job = cls(**merged)
        _ = job.measured_maps  # refuses what does not go together
        return job


@dataclass(frozen=True)
class EncoderIdentity:
    """Which encoder, without loading it into a model; `config` is as its file has it."""

    config: Mapping[str, Any]
    weights_sha256: str


def build_request(
    identity: EncoderIdentity,
    dataset: Dataset,
    job: Job,
    shard_images: int,
    grouping: Grouping | None = None,
) -> dict[str, Any]:
    """Everything that decides the content of the store, and nothing else.

    Raises
    ------
    CheckpointError
        The encoder's config asks for what is not known or not done here.
    RequestError
        The encoder takes images of another kind than the data set has.
    """
    from frictionstore.extract.encoder.config import SVAEConfig

    config = SVAEConfig.from_mapping(identity.config, job.encoder)
    if config.channels not in CHANNELS:
        raise RequestError(
            f"encoder {printable(job.encoder)} takes images of {config.channels} channels: the "
            "data sets here give 3 (RGB) or 1 (luma)"
        )
    conduit: dict[str, Any] = {**ConduitConstants().as_dict()}
    if job.gram != GRAMS[0]:  # the default is not named: stores made before it keep their identity
        conduit["gram"] = job.gram
    described = {**dataset.describe(), "count": len(dataset.ids)}
    if job.skip_unreadable:
        described["skip_unreadable"] = True
    if grouping is not None:
        described["groups"] = grouping.described
    maps = job.measured_maps
    low, high = dataset.value_range
    resize = (
        "none, drawn at this size" if described["name"] == "noise" else "shorter side, bilinear"
    )
    request = {
        "kind": "extraction",
        "format": schema.FORMAT,
        "encoder": {
            "architecture": "PatchSVAE v1",
            "config": config.as_dict(),
            "weights_sha256": identity.weights_sha256,
        },
        "dataset": described,
        "transform": {
            "image_size": job.image_size,
            "resize": resize,
            "crop": "centre",
            "channels": CHANNELS[config.channels],
            "range": [low, high],
        },
        "conduit": conduit,
        "precision": job.precision,
        "maps": {name: schema.MAPS[name].dtype for name in maps},
        "shard_images": shard_images,
    }
    if not set(maps).isdisjoint(schema.REPEATS):
        request["repeats"] = {"count": job.repeats, "seed": REPEATS_SEED}
    for key, value in leaves(request):
        private = any(part.startswith("_") for part in key.split("."))
        if private or (isinstance(value, str) and os.path.isabs(value)):
            raise RequestError(
                f"the request would hold {printable(key)} {printable(value)!r}, which is this "
                "machine's own: the same job would have another fingerprint elsewhere"
            )
    return request
